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
from ebmzoo.methods.families.level_sampler import Condition
from ebmzoo.methods.families.recovery_likelihood import RecoveryLikelihood, latent_shape
from ebmzoo.networks.autoencoder import ImageCoder
from ebmzoo.networks.base import Initializer, LevelEnergyNet
from ebmzoo.sampling.level_chain import RecoveryChain
from ebmzoo.sampling.noise_schedule import CosineSchedule, NoiseSchedule, column

Prediction = Literal["y", "x0", "epsilon"]


@final
class CDRL(RecoveryLikelihood, StartsFromProposal):
    """Cooperative diffusion recovery likelihood: T energies, one for each noise level, and an initializer of each.

    p(y|x_i) ∝ exp(−E(y) − |y − x_i|²/2σ_i²), y = m_i x_{i−1} (Eq. 3). An iteration (Alg. 1), with i ~ U{1 … T}, is

        x_{i−1} = ᾱ_{i−1} x + σ̄_{i−1} ε and x_i = ᾱ_i x + σ̄_i ε with one ε                        (Eq. 9)
        ŷ ~ N(U(x_i), m_i² σ̃_i²), ỹ by K Langevin steps on E(y|x_i) from ŷ                         (Eq. 5, 6)
        L_E = mean w_i (Ê(y) − Ê(ỹ)), w_i = σ_1/σ_i                                                  (Eq. 7)
        L_U = mean |ỹ − ŷ|²                                                                          (Eq. 8)

    ŷ in L_U is the sample and not its mean, as in the code: the same expected gradient with less spread. E is Ê/s_i²,
    and readings are of Ê. Source: CDRL (Zhu et al., ICLR 2024) and its code, for w_i and what is above the top level.

    Args:
        energy_net: Ê.
        initializer: U; None is the paper's ablation without cooperative training, whose chains start at x_i.
        schedule: the noise levels; None is the paper's cosine schedule.
        chain: the chains of all levels.
        in_channels: channels of an image.
        size: side of an image.
        predicts: what U's output stands for: `y`, with x_i added; `x0` or `epsilon`, from which the mean of x_{i−1}
            given x_i and x_0 follows (Table 10).
        teacher: what U learns from, ends of the `chain` or `data` (Table 11).
        shared_noise: one ε for both levels; without it the diffusion itself (Table 10, no noise reduction).
        drop_classes: the probability that an image is trained without its class.
        denoise: the factor of the last step's gradient (Tweedie's formula has 1); 0 leaves the step out.
        coder: an auto-encoder, whose latents are modelled in place of images.
        coder_checkpoint: its checkpoint, read when a fit begins.
        energy_optimizer: of Ê.
        energy_schedule: of its learning rate, stepped once an iteration.
        initializer_optimizer: of U.
        initializer_schedule: likewise.
        clip_norm: the limit of the gradient norm of each network.
        ema_decay: of the averages that evaluation uses.

    Raises:
        UserError: arguments that contradict each other.
    """

    def __init__(
        self,
        energy_net: LevelEnergyNet,
        initializer: Initializer | None,
        schedule: NoiseSchedule | None = None,
        chain: RecoveryChain | None = None,
        in_channels: int = 3,
        size: int = 32,
        predicts: Prediction = "y",
        teacher: Literal["chain", "data"] = "chain",
        shared_noise: bool = True,
        drop_classes: float = 0.1,
        denoise: float = 2.0,
        coder: ImageCoder | None = None,
        coder_checkpoint: str | None = None,
        energy_optimizer: OptimizerCallable = Adam,
        energy_schedule: LRSchedulerCallable | None = None,
        initializer_optimizer: OptimizerCallable = AdamW,
        initializer_schedule: LRSchedulerCallable | None = None,
        clip_norm: float | None = 1.0,
        ema_decay: float = 0.9999,
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
        self.energy_net, self.initializer = energy_net, initializer
        self.schedule, self.chain = schedule or CosineSchedule(), chain or RecoveryChain()
        self.coder, self.coder_checkpoint = coder, coder_checkpoint
        self.shape = latent_shape(coder, in_channels, size)
        self.predicts: Prediction = predicts
        self.learns_from_data = teacher == "data"
        self.shared_noise, self.drop_classes, self.denoise = shared_noise, drop_classes, denoise
        self.energy_optimizer, self.energy_schedule = energy_optimizer, energy_schedule
        self.initializer_optimizer, self.initializer_schedule = initializer_optimizer, initializer_schedule
        self.clip_norm = clip_norm
        self.averages = averaged(ema_decay, energy_net=energy_net, initializer=initializer)

    def trained_networks(self) -> dict[str, NetworkOptimizer]:
        energy = optimizers_of(self, {"energy_net": self.energy_optimizer}, self.energy_schedule, self.clip_norm)
        optimizers = {"initializer": self.initializer_optimizer}
        return energy | optimizers_of(self, optimizers, self.initializer_schedule, self.clip_norm)

    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        x0, classes = self._inward(images), self._training_classes(labels)
        i = torch.randint(1, self.schedule.levels + 1, (len(x0),), device=x0.device)
        lower, x = self.schedule.pair(x0, i, self.shared_noise)
        y = column(self.schedule.scale(i), x) * lower

        start = self._proposed(self.initializer, x, i, Condition(classes))
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
        condition: Condition,
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

    def propose(self, x: Tensor, i: Tensor, condition: Condition, generator: torch.Generator | None) -> Tensor:
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
