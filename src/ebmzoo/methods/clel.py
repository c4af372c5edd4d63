"""CLEL: an energy guided by the latents of an encoder, which learns contrastively beside it.

One file because it is one class: both networks' losses, the chain and the conditional samples of one algorithm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast, final

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import SGD, Adam

from ebmzoo.data.image_range import ImageRange, dequantized
from ebmzoo.energy import Energy
from ebmzoo.errors import UserError, at_least
from ebmzoo.methods.base.averaging import Average, averaged
from ebmzoo.methods.base.capabilities import (
    Encodes,
    EvaluatesAsPaper,
    Evaluation,
    LatentConditional,
    RunsChain,
    ScoresJointly,
)
from ebmzoo.methods.base.log_values import LogValues, chain_log_values, energy_log_values, spread_ratio
from ebmzoo.methods.base.optimization import NetworkOptimizer, optimizers_of
from ebmzoo.methods.base.paper import Paper
from ebmzoo.methods.base.samples import ChainInfo, Samples
from ebmzoo.methods.families.conditional_chain import check_given
from ebmzoo.methods.families.restoration import RestoresByEnergy
from ebmzoo.networks.base import Encoder
from ebmzoo.networks.latent import LatentEnergyNet
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.latent_energies import Composed, GivenLatent, Joint, agreement
from ebmzoo.sampling.replay import ReplayBuffer
from ebmzoo.ssrl.augment import Augment
from ebmzoo.ssrl.objective import Objective
from ebmzoo.ssrl.pretraining import load_encoder


@final
class CLEL(RestoresByEnergy, Encodes, LatentConditional, RunsChain, ScoresJointly, EvaluatesAsPaper):
    """Contrastive latent-guided energy learning: an energy of images and latents, and the encoder of the latents.

    Paper: Hankook Lee, Jongheon Jeong, Sejun Park, Jinwoo Shin: Guiding energy-based models via contrastive latent
    variables. ICLR 2023, arXiv:2303.03023.

    E(x, z) = E(x) − β cos(g(f(x)), z), z = h(t(x)), t ~ T (Eq. 9 and 10). An iteration is

        x̃ from the buffer, with probability p anew from noise; x̃ ← t(x̃), K Langevin steps on E(x), and back to it
        z = h(t(x)) and z̃ = g(f(x̃)), neither with a gradient
        L_EBM = mean[E(x, z) − E(x̃) + α (E(x)² + E(x̃)²)]                                       (Eq. 12)
        L_LE = the loss of h on the data, with z̃ as further negatives                              (Eq. 13)

    Source: CLEL, algorithm 1 and appendix B, and its code. Inside images are in [0, 1]; so are the sampler's numbers.

    Args:
        **Networks**:
        energy_net: E(x) with f and g, on images in [0, 1].
        encoder: h. None, with beta 0, is the model without latents (Table 5 a).
        encoder_objective: L_LE, the loss of h in every iteration. None, with a checkpoint, keeps h fixed.
        encoder_checkpoint: A checkpoint of `ebmzoo.ssrl.Pretraining` that h starts from, read when a fit begins.
        in_channels: The number of channels of an image.
        size: The side of an image, in pixels.

        **Chain**:
        sampler: The chain of K steps; the authors' code has `bounds` [0, 1].
        rounds: The number of rounds, each of t and K steps, that samples take from uniform noise.
        replay_size: The number of states in the buffer.
        reinit_prob: p, the probability that a state of the buffer is drawn anew.

        **Loss**:
        alpha: α.
        beta: β of training.
        model_negatives: True makes z̃ negatives of h; Table 5 b has the ablation without them.
        augment: T, the augmentations of the chains and of the data's latents; None is the paper's.
        augment_latents: True makes z = h(t(x)); False h(x), for an encoder that learns without views (MAE, appendix
            C).
        dequantize: True turns data into x·255/256 + U(0, 1/256) on [0, 1].
        energy_batch: The energy learns from the first `energy_batch` images of a batch, h from all (Table 3); None:
            both from all.

        **Optimization**:
        energy_optimizer: The optimizer of f and g.
        energy_schedule: Its learning-rate schedule, stepped once an iteration.
        encoder_optimizer: The optimizer of h and of the objective's own parameters.
        encoder_schedule: Its learning-rate schedule, stepped once an iteration.
        clip_norm: The limit of the energy's gradient norm; the paper has none.

        **Evaluation**:
        ema_decay: The decay of the averages of E and h that evaluation uses; the code's is ½^(64/20000).
        ema_start: The number of first iterations in which the averages equal the weights.
        beta_ood: β of the out-of-distribution score (Eq. 14).
        beta_sample: β of conditional samples; None is `beta`.
        evaluation: `paper` renews each sample by noise with probability p at the start of every round, as the authors'
            evaluation does; `library` lets every sample take all rounds.

    Raises:
        UserError: arguments that contradict each other.
    """

    paper = Paper(
        "Guiding energy-based models via contrastive latent variables",
        "Hankook Lee, Jongheon Jeong, Sejun Park, Jinwoo Shin",
        year=2023,
        venue="ICLR",
        arxiv="2303.03023",
    )

    def __init__(
        self,
        energy_net: LatentEnergyNet,
        sampler: Langevin,
        # networks
        encoder: Encoder | None = None,
        encoder_objective: Objective | None = None,
        encoder_checkpoint: str | None = None,
        in_channels: int = 3,
        size: int = 32,
        # chain
        rounds: int = 10,
        replay_size: int = 10_000,
        reinit_prob: float = 0.001,
        # loss
        alpha: float = 1.0,
        beta: float = 0.01,
        model_negatives: bool = True,
        augment: Augment | None = None,
        augment_latents: bool = True,
        dequantize: bool = True,
        energy_batch: int | None = None,
        # optimization
        energy_optimizer: OptimizerCallable = Adam,
        energy_schedule: LRSchedulerCallable | None = None,
        encoder_optimizer: OptimizerCallable = SGD,
        encoder_schedule: LRSchedulerCallable | None = None,
        clip_norm: float | None = None,
        # evaluation
        ema_decay: float = 0.997784,
        ema_start: int = 312,
        beta_ood: float = 0.1,
        beta_sample: float | None = None,
        evaluation: Evaluation = "library",
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, size=size)
        if encoder is None and (beta != 0 or encoder_objective is not None):
            raise UserError("model.encoder is missing: beta other than 0 and encoder_objective need an encoder")
        if encoder is not None and encoder_objective is None and encoder_checkpoint is None:
            raise UserError("model.encoder needs encoder_objective to learn, or encoder_checkpoint, or both")
        for name, value in (("rounds", rounds), ("energy_batch", energy_batch)):
            if value is not None and value < 1:
                raise UserError(f"model.{name} is {value}; it must be 1 or more")
        self.energy_net = energy_net
        self.encoder = encoder
        self.objective = encoder_objective
        self.sampler = sampler
        self.rounds = rounds
        self.range = ImageRange(0, 1)
        self.encoder_checkpoint = encoder_checkpoint
        self.model_negatives = model_negatives
        self.alpha = alpha
        self.beta = beta
        self.beta_ood = beta_ood
        self.beta_sample = beta if beta_sample is None else beta_sample
        self.evaluation = evaluation
        self.replay = ReplayBuffer(replay_size, (in_channels, size, size), "slot", reinit_prob)
        self.augment = augment or Augment(crop_scale=(0.08, 1.0), grayscale_prob=0.2)
        self.augment_latents = augment_latents
        self.dequantize = dequantize
        self.energy_batch = energy_batch
        self.energy_optimizer = energy_optimizer
        self.energy_schedule = energy_schedule
        self.encoder_optimizer = encoder_optimizer
        self.encoder_schedule = encoder_schedule
        self.clip_norm = clip_norm
        if encoder is not None and encoder_objective is not None:
            encoder_objective.attach(encoder)
        elif encoder is not None:
            encoder.requires_grad_(False)
        learning = None if encoder_objective is None else encoder
        self.averages = averaged(ema_decay, ema_start, energy_net=energy_net, encoder=learning)

    def trained_networks(self) -> dict[str, NetworkOptimizer]:
        trained = optimizers_of(self, {"energy_net": self.energy_optimizer}, self.energy_schedule, self.clip_norm)
        if self.encoder is not None and self.objective is not None:
            both = nn.ModuleList([self.encoder, self.objective])
            trained["ssrl"] = NetworkOptimizer(both, self.encoder_optimizer, self.encoder_schedule)
        return trained

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.starts_anew and self.encoder is not None and self.encoder_checkpoint is not None:
            load_encoder(self.encoder, self.encoder_checkpoint)
            if self.objective is not None:  # copies of h made at construction are out of date
                self.objective.attach(self.encoder)
                cast(Average, self.averages["encoder"]).module.load_state_dict(self.encoder.state_dict())

    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        if self.encoder is not None and self.objective is None:
            self.encoder.eval()  # kept fixed, its batch statistics too
        if self.dequantize:
            images = dequantized(images)
        some = images[: self.energy_batch]
        old, slots = self.replay.draw(len(some))
        start = self.range.inward(self.augment(old))
        chain = self.sampler(self.energy_net, start)
        self.replay.store(self.range.outward(chain), slots)
        z = self._latent(some)

        # data and chains in one pass: no layer of E mixes the images of a batch
        net = self.energy_net
        f, f_chain = net.features(torch.cat([self.range.inward(some), chain])).chunk(2)
        data, ends = net.marginal(f), net.marginal(f_chain)
        cos = torch.zeros_like(data) if z is None else agreement(net, f, z)
        z_chain = net.project(f_chain).detach()
        ratios = {} if z is None else {"joint_ratio": spread_ratio(data, self.beta_ood * cos)}
        loss_energy = (data - self.beta * cos - ends + self.alpha * (data.square() + ends.square())).mean()
        grad_norm = self.minimize(loss_energy, "energy_net")
        encoder_values = self._train_encoder(images, z_chain if self.model_negatives else None)
        return (
            energy_log_values(data, ends)
            | chain_log_values(self.sampler, start, chain)
            | {
                "grad_norm": grad_norm,
                "loss_energy": loss_energy.detach(),
                "agreement": cos.detach().mean(),
                "feature_norm": f.detach().norm(dim=1).mean(),
            }
            | ratios
            | encoder_values
        )

    @torch.no_grad()
    def _latent(self, images: Tensor) -> Tensor | None:
        """z = h(t(x)), with h as it stands (Eq. 9)."""
        if self.encoder is None:
            return None
        return cast(Tensor, self.encoder(self.augment(images) if self.augment_latents else images))

    def _train_encoder(self, images: Tensor, negatives: Tensor | None) -> LogValues:
        """The step of h (Eq. 13), and of its average."""
        if self.encoder is None or self.objective is None:
            return {}
        loss = cast(Tensor, self.objective(self.encoder, images, negatives=negatives))
        self.minimize(loss, "ssrl")
        if self.optimization.steps_now:
            cast(Average, self.averages["encoder"]).update_parameters(self.encoder)
            self.objective.after_step(self.encoder, self.progress)
        return {"ssrl_loss": loss.detach()}

    @property
    def progress(self) -> float:
        """The fraction of the run completed after this iteration, which the trainer counts later, in [0, 1]."""
        return min(1.0, (self.trainer.global_step + 1) / self.trainer.estimated_stepping_batches)

    # ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _joint(self, beta: float) -> Joint:
        return Joint(cast(LatentEnergyNet, self.network("energy_net")), beta)

    def energy(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.network("energy_net")(self.range.inward(x)))

    def chain_energy(self) -> Energy:
        return self.network("energy_net")

    def ood_score(self, x: Tensor) -> Tensor:
        """E(x) − β_ood cos(g(f(x)), h(x)), with h on the image without a view (Eq. 14).

        With `dequantize` images are dequantised as in training, by one noise for all of them.
        """
        if self.encoder is None:
            return self.energy(x)
        energy, cos = self.joint_parts(x)
        return energy - self.beta_ood * cos

    @property
    def joint_weight(self) -> float | None:
        return None if self.encoder is None else self.beta_ood

    def joint_parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.dequantize:
            x = dequantized(x, seed=0)
        net = cast(LatentEnergyNet, self.network("energy_net"))
        f = net.features(self.range.inward(x))
        return net.marginal(f), agreement(net, f, self.encode(x))

    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Samples:
        """From uniform noise, `rounds` times t and K steps on E(x); `steps` counts all of them, and 0 is the noise.

        With `evaluation: paper` a sample is renewed by noise with probability p before each round.
        """
        if labels is not None:
            raise UserError("CLEL is unconditional: sample takes no labels, and sample_from_latents takes latents")
        return self._from_noise(self.network("energy_net"), n, steps, generator)

    @property
    def chain_steps(self) -> int:
        return self.rounds * self.sampler.steps

    def long_chain(
        self, n: int, steps: int, *, generator: torch.Generator | None = None
    ) -> tuple[str, Iterator[Tensor]]:
        x0 = self.range.inward(self.replay.fresh(n, generator))
        path = self.sampler.lasting(steps).path(self.network("energy_net"), x0, generator=generator)
        return "noise", map(self.range.outward, path)

    @property
    def can_condition_on_latents(self) -> bool:
        return self.encoder is not None

    def encode(self, x: Tensor) -> Tensor:
        """h(x), of the averaged weights; a UserError where the model has no encoder."""
        self._need_encoder()
        return cast(Tensor, self.network("encoder")(x))

    def _need_encoder(self) -> Encoder:
        if self.encoder is None:
            raise UserError("model.encoder is null: a CLEL without latents has none to condition on")
        return self.encoder

    def sample_from_latents(
        self, z: Tensor, *, steps: int | None = None, generator: torch.Generator | None = None
    ) -> Samples:
        """As `sample`, on E(x) − β Σₖ cos(g(f(x)), zₖ) (Eq. 10 and 15) with β = `beta_sample`.

        Raises:
            UserError: the model has no encoder, or `z` is neither `(n, d)` nor `(n, k, d)`.
        """
        check_given(z, self._need_encoder().latent)
        joint, z = self._joint(self.beta_sample), z.to(self.device)
        return self._from_noise(GivenLatent(joint, z) if z.dim() == 2 else Composed(joint, z), len(z), steps, generator)

    def _from_noise(self, energy: Energy, n: int, steps: int | None, generator: torch.Generator | None) -> Samples:
        a_round = max(1, self.sampler.steps)
        whole = replace(self.sampler, steps=self.rounds * self.sampler.steps if steps is None else steps)
        with self.evaluating():
            x = self.replay.fresh(n, generator)
            for done in range(0, whole.steps, a_round):
                sampler = replace(self.sampler, steps=min(a_round, whole.steps - done))
                if self.evaluation == "paper":
                    x = self.replay.renewed(x, generator)
                x0 = self.range.inward(self.augment(x, generator))
                x = self.range.outward(sampler(energy, x0, generator=generator))
        return self.chain_info(steps).samples(x)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.replay.shape

    def chain_info(self, steps: int | None = None) -> ChainInfo:
        total = self.chain_steps if steps is None else steps
        return ChainInfo(total, "noise", total, self.sampler.temperature if total else math.nan)

    def representations(self) -> dict[str, Callable[[Tensor], Tensor]]:
        net = cast(LatentEnergyNet, self.network("energy_net"))
        found: dict[str, Callable[[Tensor], Tensor]] = {"energy": lambda x: net.features(self.range.inward(x))}
        return found if self.encoder is None else found | {"encoder": cast(Encoder, self.network("encoder")).features}
