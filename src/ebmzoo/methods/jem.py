"""JEM and JEM++: a classifier whose logits are the energies of images and classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, cast, final

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Adam

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.image_range import ImageRange
from ebmzoo.data.plane import PlaneData
from ebmzoo.energy import Energy
from ebmzoo.errors import UserError, at_least
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.methods.base.capabilities import ClassConditional, Classifies, Encodes
from ebmzoo.methods.base.log_values import LogValues, chain_log_values, energy_log_values
from ebmzoo.methods.base.paper import Paper
from ebmzoo.methods.base.samples import ChainInfo, Samples
from ebmzoo.methods.families.noise_chain import ChainFromNoise
from ebmzoo.networks.base import ClassEnergyNet
from ebmzoo.sampling.class_energies import GivenClasses
from ebmzoo.sampling.class_gaussians import ClassGaussians
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.replay import ReplayBuffer


@final
class JEM(ChainFromNoise, ClassConditional, Classifies, Encodes):
    """A classifier f that is trained as such and, by contrastive divergence, as an energy of images.

    Paper: Will Grathwohl, Kuan-Chieh Wang, Jörn-Henrik Jacobsen, David Duvenaud, Mohammad Norouzi, Kevin Swersky: Your
    classifier is secretly an energy based model and you should treat it like one. ICLR 2020, arXiv:1912.03263.

    E(x, y) = −f(x)[y], E(x) = −log Σ_y exp f(x)[y], so that p(y|x) = exp(E(x) − E(x, y)) is the softmax. An iteration,
    with a batch (x_l, y_l) and another x, both with noise σε, is

        x⁻ by K Langevin steps on E from the buffer, or anew with probability `reinit_prob`; it returns to its slot
        L = w_y mean [E(x_l, y_l) − E(x_l)] + w_x [mean E(x) − mean E(x⁻)]
            + w_xy [mean E(x_l, y_l) − mean E(x⁻, y⁻)] + α [mean E(x)² + mean E(x⁻)²]

    whose first term is the cross-entropy. Slot s of the buffer has the class y⁻ = s mod K.
    Source: Grathwohl et al. 2020 and its code; the code of Yang & Ji 2021 (JEM++), for class Gaussians and the limits
    of the chain.

    Args:
        **Networks**:
        energy_net: f.
        in_channels: The number of channels of an image.
        size: The side of an image, in pixels.

        **Chain**:
        sampler: K, η and τ in units of [-1, 1]; JEM's are 20, 1 and 0.01 without limits, JEM++'s 10, 1 and 0 with a
            `clip` of 1 and `bounds` of [-1, 1].
        replay_size: States in the buffer.
        reinit_prob: The probability that a chain of training starts anew.
        start: Where chains start anew, and those of `sample`: from `uniform` noise, or from Gaussians with the moments
            of the training images of a class (`class_gaussians`).
        uniform_share: With class Gaussians the share of new chains of training that start from noise all the same: an
            energy whose chains have never been there need not tell noise from images.
        class_chains: Chains of training descend E(x, y⁻) and not E(x): better images, and worse accuracy.

        **Loss**:
        class_weight: w_y.
        density_weight: w_x.
        joint_weight: w_xy; it needs `class_chains`.
        alpha: α.
        data_noise: σ.
        split_batch: The first half of a batch is x_l and the second x, as from the two loaders of the code; without it
            all images are both.

        **Optimization**:
        energy_optimizer: The optimizer of f.
        lr_schedule: Stepped once an iteration.
        clip_norm: The limit of the gradient's norm.

        **Evaluation**:
        rounds: `sample` runs this many times K steps.
        sample_from_replay: `sample` goes on from states of the buffer, as the code's evaluation, and not from new ones.
        ema_decay: The decay of the average that evaluation uses; 0 is none, as theirs.

    Raises:
        UserError: A number is out of its range, or `joint_weight` is above 0 without `class_chains`.
    """

    paper = Paper(
        "Your classifier is secretly an energy based model and you should treat it like one",
        "Will Grathwohl, Kuan-Chieh Wang, Jörn-Henrik Jacobsen, David Duvenaud, Mohammad Norouzi, Kevin Swersky",
        year=2020,
        venue="ICLR",
        arxiv="1912.03263",
    )
    range = ImageRange(-1.0, 1.0)
    energy_net: ClassEnergyNet

    def __init__(
        self,
        # networks
        energy_net: ClassEnergyNet,
        # chain
        sampler: Langevin,
        in_channels: int = 3,
        size: int = 32,
        replay_size: int = 10_000,
        reinit_prob: float = 0.05,
        start: Literal["uniform", "class_gaussians"] = "uniform",
        uniform_share: float = 0.5,
        class_chains: bool = False,
        # loss
        class_weight: float = 1.0,
        density_weight: float = 1.0,
        joint_weight: float = 0.0,
        alpha: float = 0.0,
        data_noise: float = 0.03,
        split_batch: bool = True,
        # optimization
        energy_optimizer: OptimizerCallable = Adam,
        lr_schedule: LRSchedulerCallable | None = None,
        clip_norm: float | None = None,
        # evaluation
        rounds: int = 1,
        sample_from_replay: bool = False,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, size=size, rounds=rounds)
        weights = {"class_weight": class_weight, "density_weight": density_weight, "joint_weight": joint_weight}
        at_least(0, **weights, alpha=alpha, data_noise=data_noise)
        if not 0 <= uniform_share <= 1:
            raise UserError(f"model.uniform_share is {uniform_share}; it must be between 0 and 1")
        if joint_weight and not class_chains:
            raise UserError(
                f"model.joint_weight is {joint_weight}, which needs chains on E(x, y): set model.class_chains to true"
            )
        shape = (in_channels, size, size)
        self.energy_net = energy_net
        self.sampler = sampler
        self.replay = ReplayBuffer(replay_size, shape, "slot", reinit_prob=reinit_prob)
        self.gaussians = ClassGaussians(energy_net.classes, shape) if start == "class_gaussians" else None
        self.uniform_share = uniform_share
        self.class_chains = class_chains
        self.class_weight = class_weight
        self.density_weight = density_weight
        self.joint_weight = joint_weight
        self.alpha = alpha
        self.data_noise = data_noise
        self.split_batch = split_batch
        self.energy_optimizer = energy_optimizer
        self.lr_schedule = lr_schedule
        self.clip_norm = clip_norm
        self.rounds = rounds
        self.sample_from_replay = sample_from_replay
        self.averages = averaged(ema_decay, energy_net=energy_net)

    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        x = images + self.data_noise * torch.randn_like(images) if self.data_noise else images
        labelled = self._labelled(len(x))  # how many images are in the cross-entropy
        data = x[labelled:] if self.split_batch else x
        given = labels[:labelled]

        slots = torch.randperm(self.replay.size, device=x.device)[: len(data)]
        classes = slots % self.classes
        start = self._renewed(self.replay.states[slots].to(x.dtype), classes)
        descended: Energy = GivenClasses(self.energy_net, classes[:, None]) if self.class_chains else self.energy_net
        ends = self.walk(self.sampler, descended, start, None)
        self.replay.store(ends, slots)

        logits = self.energy_net.logits(torch.cat([x, ends]))  # one pass: no layer mixes the images of a batch
        of_data, of_ends = logits[len(x) - len(data) : len(x)], logits[len(x) :]
        energy, energy_ends = -of_data.logsumexp(1), -of_ends.logsumexp(1)
        joint, joint_ends = _joint(logits[:labelled], given), _joint(of_ends, classes)
        cross_entropy = F.cross_entropy(logits[:labelled], given)
        loss = self.class_weight * cross_entropy + self.density_weight * (energy.mean() - energy_ends.mean())
        loss = loss + self.joint_weight * (joint.mean() - joint_ends.mean())
        loss = loss + self.alpha * (energy.square().mean() + energy_ends.square().mean())
        grad_norm = self.minimize(loss, "energy_net")
        right = (logits[:labelled].detach().argmax(1) == given).float().mean()
        return (
            energy_log_values(energy, energy_ends)
            | chain_log_values(self.sampler, start, ends)
            | {"grad_norm": grad_norm, "loss_classes": cross_entropy.detach(), "accuracy": right}
        )

    def _labelled(self, n: int) -> int:
        if self.split_batch and n < 2:
            raise UserError(f"data.batch_size is {n}; with model.split_batch it must be 2 or more")
        if (chains := n - n // 2 if self.split_batch else n) > self.replay.size:
            raise UserError(f"model.replay_size is {self.replay.size}, but a batch needs {chains} chains")
        return n // 2 if self.split_batch else n

    def _renewed(self, x: Tensor, classes: Tensor) -> Tensor:
        """States of the buffer, each replaced with probability `reinit_prob` by a new one."""
        if self.gaussians is None:
            return self.replay.renewed(x)
        anew = torch.rand(len(x), device=x.device) < self.replay.reinit_prob
        return torch.where(anew[:, None, None, None], self._first(classes), x)

    def _first(self, classes: Tensor) -> Tensor:
        """New states of the buffer, of these classes: by the Gaussians, but for `uniform_share` of them."""
        noise = self.replay.fresh(len(classes))
        if self.gaussians is None:
            return noise
        uniform = torch.rand(len(classes), device=classes.device) < self.uniform_share
        return torch.where(uniform[:, None, None, None], noise, self.gaussians.sample(classes).to(noise.dtype))

    def walk(self, sampler: Langevin, energy: Energy, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return sampler(energy, x, generator=generator)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.gaussians is not None and self.starts_anew:
            data = getattr(self.trainer, "datamodule", None)
            if not isinstance(data, ImageData):
                raise UserError("model.start is class_gaussians, which needs a data module with training images")
            self.gaussians.fit(data.train_set)
            self.replay.states.copy_(self._first(torch.arange(self.replay.size, device=self.device) % self.classes))

    def check_data(self, data: ImageData | PlaneData) -> None:
        super().check_data(data)
        if isinstance(data, ImageData) and data.concepts is not None:
            raise UserError("JEM learns one label of each image: data.concepts must be null")
        if len(names := data.classes) != self.classes:
            shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
            raise UserError(
                f"model.energy_net.classes is {self.classes} but data has {len(names)}: {shown}; set "
                f"--model.energy_net.classes {len(names)}, or use data with classes"
            )

    # ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def classes(self) -> int:
        return self.energy_net.classes

    def class_logits(self, x: Tensor) -> Tensor:
        return self._net.logits(x)

    def representations(self) -> dict[str, Callable[[Tensor], Tensor]]:
        return {"energy": self._net.features}

    @property
    def _net(self) -> ClassEnergyNet:
        return cast(ClassEnergyNet, self.network("energy_net"))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.replay.shape

    @property
    def start_name(self) -> str:
        return "replay" if self.sample_from_replay else self._new_name

    @property
    def _new_name(self) -> str:
        return "noise" if self.gaussians is None else "Gaussians of the classes"

    def start(self, n: int, generator: torch.Generator | None) -> Tensor:
        if self.sample_from_replay:
            return self.replay.draw(n, generator, renew=False)[0]
        return self._new(torch.randint(self.classes, (n,), device=self.device, generator=generator), generator)

    def _new(self, classes: Tensor, generator: torch.Generator | None) -> Tensor:
        """Where chains of `sample` start that go on from nothing, of these classes."""
        if self.gaussians is None:
            return self.replay.fresh(len(classes), generator)
        return self.gaussians.sample(classes, generator)

    def refuse_labels(self, labels: Tensor | None) -> None:
        if labels is not None:
            raise UserError("JEM.sample takes no labels: use sample_from_classes")

    def sample_from_classes(
        self,
        labels: Tensor,
        *,
        guidance: float = 0.0,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Samples:
        """As `sample`, on `GivenClasses` in one chain; it starts anew, of several classes from those of the first."""
        labels = labels.to(self.device).view(len(labels), -1)
        info: ChainInfo = replace(self.chain_info(steps), start=self._new_name)
        energy = GivenClasses(self._net, labels, guidance)
        with self.evaluating():
            start = self._new(labels[:, 0], generator)
            return info.samples(self.sampler.lasting(info.steps)(energy, start, generator=generator))


def _joint(logits: Tensor, classes: Tensor) -> Tensor:
    """E(x, y), `(B,)`."""
    return -logits.gather(1, classes[:, None]).squeeze(1)
