"""CDRL: recovery likelihood with an initializer, which learns what the chains do."""

from __future__ import annotations

from typing import Literal, cast, final

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Adam, AdamW

from ebmzoo.errors import UserError, at_least
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.methods.base.capabilities import StartsFromProposal
from ebmzoo.methods.base.log_values import LogValues, squared_error
from ebmzoo.methods.base.optimization import NetworkOptimizer, optimizers_of
from ebmzoo.methods.base.paper import Paper
from ebmzoo.methods.families.level_sampler import ClassCondition
from ebmzoo.methods.families.recovery_likelihood import RecoveryLikelihood, latent_shape
from ebmzoo.networks.autoencoder import ImageCoder
from ebmzoo.networks.base import Initializer, LevelEnergyNet
from ebmzoo.sampling.level_chain import RecoveryChain
from ebmzoo.sampling.noise_schedule import CosineSchedule, NoiseSchedule, column

Prediction = Literal["y", "x0", "epsilon"]


@final
class CDRL(RecoveryLikelihood, StartsFromProposal):
    """Cooperative diffusion recovery likelihood: T energies, one for each noise level, and an initializer of each.

    Paper: Yaxuan Zhu, Jianwen Xie, Ying Nian Wu, Ruiqi Gao: Learning energy-based models by cooperative diffusion
    recovery likelihood. ICLR 2024, arXiv:2309.05153.

    p(y|x_i) ∝ exp(−E(y) − |y − x_i|²/2σ_i²), y = m_i x_{i−1} (Eq. 3). An iteration (Alg. 1), with i ~ U{1 … T}, is

        x_{i−1} = ᾱ_{i−1} x + σ̄_{i−1} ε and x_i = ᾱ_i x + σ̄_i ε with one ε                        (Eq. 9)
        ŷ ~ N(U(x_i), m_i² σ̃_i²), ỹ by K Langevin steps on E(y|x_i) from ŷ                         (Eq. 5, 6)
        L_E = mean w_i (Ê(y) − Ê(ỹ)), w_i = σ_1/σ_i                                                  (Eq. 7)
        L_U = mean |ỹ − ŷ|²                                                                          (Eq. 8)

    ŷ in L_U is the sample and not its mean, as in the code: the same expected gradient with less spread. E is Ê/s_i²,
    and log values are those of Ê. Source: CDRL (Zhu et al., ICLR 2024) and its code, for w_i and what is above the top
    level.

    Args:
        **Networks**:
        energy_net: Ê.
        initializer: U. None is the paper's ablation without cooperative training, whose chains start at x_i.
        predicts: What U's output stands for: `y`, with x_i added; `x0` or `epsilon`, from which the mean of x_{i−1}
            given x_i and x_0 follows (Table 10).
        coder: An autoencoder whose latents are modelled in place of images.
        coder_checkpoint: Its checkpoint, read when a fit begins.
        in_channels: The number of channels of an image.
        size: The side of an image, in pixels.

        **Chain**:
        schedule: The noise levels; None is the paper's cosine schedule.
        chain: The chains of all levels.

        **Loss**:
        teacher: What U learns from: the ends of the `chain`, or the `data` (Table 11).
        shared_noise: True draws one ε for both levels; False is the diffusion itself (Table 10, no noise reduction).
        drop_classes: The probability that an image is trained without its class.

        **Optimization**:
        energy_optimizer: The optimizer of Ê.
        energy_schedule: Its learning-rate schedule, stepped once an iteration.
        initializer_optimizer: The optimizer of U.
        initializer_schedule: Its learning-rate schedule, stepped once an iteration.
        clip_norm: The limit of each network's gradient norm.

        **Evaluation**:
        ema_decay: The decay of the averages that evaluation uses.
        ema_warmup: True makes the decay at update n at most (1 + n)/(10 + n), as the code does.
        denoise: The factor of the last step's gradient (Tweedie's formula has 1); 0 leaves the step out.

    Raises:
        UserError: arguments that contradict each other.
    """

    paper = Paper(
        "Learning energy-based models by cooperative diffusion recovery likelihood",
        "Yaxuan Zhu, Jianwen Xie, Ying Nian Wu, Ruiqi Gao",
        year=2024,
        venue="ICLR",
        arxiv="2309.05153",
    )

    def __init__(
        self,
        # networks
        energy_net: LevelEnergyNet,
        initializer: Initializer | None,
        predicts: Prediction = "y",
        coder: ImageCoder | None = None,
        coder_checkpoint: str | None = None,
        in_channels: int = 3,
        size: int = 32,
        # chain
        schedule: NoiseSchedule | None = None,
        chain: RecoveryChain | None = None,
        # loss
        teacher: Literal["chain", "data"] = "chain",
        shared_noise: bool = True,
        drop_classes: float = 0.1,
        # optimization
        energy_optimizer: OptimizerCallable = Adam,
        energy_schedule: LRSchedulerCallable | None = None,
        initializer_optimizer: OptimizerCallable = AdamW,
        initializer_schedule: LRSchedulerCallable | None = None,
        clip_norm: float | None = 1.0,
        # evaluation
        ema_decay: float = 0.9999,
        denoise: float = 2.0,
        ema_warmup: bool = True,
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, size=size)
        if initializer is not None and initializer.classes not in (0, energy_net.classes):
            raise UserError(
                f"model.initializer.classes is {initializer.classes}; it must be 0 or the energy's {energy_net.classes}"
            )
        if coder is None and coder_checkpoint is not None:
            raise UserError("model.coder_checkpoint is given without a model.coder")
        if not 0 <= drop_classes <= 1:
            raise UserError(f"model.drop_classes is {drop_classes}; it must be between 0 and 1")
        self.energy_net = energy_net
        self.initializer = initializer
        self.schedule = schedule or CosineSchedule()
        self.chain = chain or RecoveryChain()
        self.coder = coder
        self.coder_checkpoint = coder_checkpoint
        self.shape = latent_shape(coder, in_channels, size)
        self.predicts: Prediction = predicts
        self.learns_from_data = teacher == "data"
        self.shared_noise = shared_noise
        self.drop_classes = drop_classes
        self.denoise = denoise
        self.energy_optimizer = energy_optimizer
        self.energy_schedule = energy_schedule
        self.initializer_optimizer = initializer_optimizer
        self.initializer_schedule = initializer_schedule
        self.clip_norm = clip_norm
        self.averages = averaged(ema_decay, warmup=ema_warmup, energy_net=energy_net, initializer=initializer)

    def trained_networks(self) -> dict[str, NetworkOptimizer]:
        energy = optimizers_of(self, {"energy_net": self.energy_optimizer}, self.energy_schedule, self.clip_norm)
        optimizers = {"initializer": self.initializer_optimizer}
        return energy | optimizers_of(self, optimizers, self.initializer_schedule, self.clip_norm)

    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        x0, classes = self._inward(images), self._training_classes(labels)
        i = torch.randint(1, self.schedule.levels + 1, (len(x0),), device=x0.device)
        lower, x = self.schedule.pair(x0, i, self.shared_noise)
        y = column(self.schedule.scale(i), x) * lower

        start = self._proposed(self.initializer, x, i, ClassCondition(classes))
        ends = self._refine(start.detach(), x, i, classes)
        loss_energy, values = self._contrast(y, ends, i, classes)
        grad_norm = self.minimize(loss_energy, "energy_net")
        if self.initializer is not None:
            loss = squared_error(y if self.learns_from_data else ends, start).mean()
            values["grad_norm_initializer"] = self.minimize(loss, "initializer")
            values["loss_initializer"] = loss.detach()
        return values | self._moved(start, ends) | {"grad_norm": grad_norm}

    def _proposed(
        self,
        initializer: Initializer | None,
        x: Tensor,
        i: Tensor,
        condition: ClassCondition,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """ŷ ~ N(Σ_k w_k U(x_i, c_k), m_i² σ̃_i²) (Eq. 6 and 12), or x_i where there is no initializer."""
        if initializer is None:
            return x
        time, labels, weights = self.schedule.time[i], condition.labels, condition.weights
        if initializer.classes == 0 or labels is None:
            prediction = initializer(x, time)
        elif len(weights) == 1:
            prediction = weights[0] * initializer(x, time, labels[:, 0])
        else:
            k = len(weights)
            each = initializer(x.repeat_interleave(k, 0), time.repeat_interleave(k), labels.flatten())
            prediction = (each.unflatten(0, (-1, k)) * column(each.new_tensor(weights), each)).sum(1)
        xi = torch.randn(x.shape, device=x.device, generator=generator)
        return self._mean(prediction, x, i) + column(self.schedule.proposal_std(i), x) * xi

    def _mean(self, prediction: Tensor, x: Tensor, i: Tensor) -> Tensor:
        """The mean of y, from what the initializer predicts."""
        if self.predicts == "y":
            return x + prediction
        schedule = self.schedule
        if self.predicts == "epsilon":
            prediction = (x - column(schedule.sigma_bar[i], x) * prediction) / column(schedule.alpha_bar[i], x)
        return column(schedule.scale(i), x) * schedule.posterior_mean(prediction, x, i)

    def propose(self, x: Tensor, i: Tensor, condition: ClassCondition, generator: torch.Generator | None) -> Tensor:
        initializer = None if self.initializer is None else cast(Initializer, self.network("initializer"))
        return self._proposed(initializer, x, i, condition, generator)

    @property
    def proposals(self) -> Literal["none", "unconditional", "by class"]:
        if self.initializer is None:
            return "none"
        return "by class" if self.initializer.classes else "unconditional"

    @property
    def can_propose(self) -> bool:
        return self.initializer is not None
