"""Improved contrastive divergence: IGEBM with the gradient through the chain, and augmented buffer states."""

from __future__ import annotations

from typing import Literal, final

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Adam

from ebmzoo.data.image_range import ImageRange, dequantized
from ebmzoo.energy import Energy, EnergyNet, frozen
from ebmzoo.errors import UserError, at_least
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.methods.base.log_values import LogValues, chain_log_values, contrast, energy_log_values
from ebmzoo.methods.base.paper import Paper
from ebmzoo.methods.families.noise_chain import ChainFromReplay, before_last, noise_first
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.replay import ReplayBuffer
from ebmzoo.ssrl.augment import Augment


def last_step(energy: Energy, y: Tensor, sampler: Langevin) -> Tensor:
    """x̃(θ) = y − η∇E_θ(y), within the bounds, as a function of E's parameters θ; `y` is given and has no gradient."""
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        (grad,) = torch.autograd.grad(energy(y).sum(), y, create_graph=True)
        x = y.detach() - sampler.step_size * grad
        return x if sampler.bounds is None else x.clamp(*sampler.bounds)


def held_energy(net: EnergyNet, x: Tensor) -> Tensor:
    """mean E_sg(θ)(x): its gradient reaches E's parameters only through how x was made. `()`."""
    with frozen(net):
        return net(x).mean()  # type: ignore[no-any-return]


def nearest_neighbour_entropy(x: Tensor, others: Tensor) -> Tensor:
    """mean log minⱼ |xᵢ − bⱼ|₂, an entropy of x but for a constant: `x` is `(n, *)`, `others` `(m, *)`, result `()`.

    Source: Du et al. 2021, after Beirlant et al. 1997. Distances count from 1e-6 up.
    """
    x, others = x.flatten(1), others.flatten(1)
    # by differences, for a product of matrices loses the small distances, which are those that count
    distances = torch.cdist(x, others, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.min(1).values.clamp_min(1e-6).log().mean()


@final
class ImprovedCD(ChainFromReplay):
    """Contrastive divergence with the term that it leaves out: the chain's end moves with the energy too.

    Paper: Yilun Du, Shuang Li, Joshua B. Tenenbaum, Igor Mordatch: Improved contrastive divergence training of
    energy-based models. ICML 2021, arXiv:2012.01316.

    p(x) ∝ exp(−E_θ(x)), sg(θ) is θ held fixed. An iteration is

        x₀ = v(state of the buffer), or U(−1, 1) with probability `reinit_prob`
        y by K − 1 steps y ← y − η∇E(y) + τξ from x₀ + τξ, and x̃(θ) = y − η∇E_θ(y), which joins the buffer
        L_CD  = mean E_θ(x) − mean E_θ(sg(x̃)) + α [mean E_θ(x)² + mean E_θ(sg(x̃))²]
        L_KL  = mean E_sg(θ)(x̃(θ))
        L_ent = −mean log minⱼ |x̃ᵢ(θ) − v(bⱼ)|, b from the buffer
        L_E   = L_CD + w_KL L_KL + w_ent L_ent

    L_KL + L_ent is the divergence of the chain's law from p as a function of that law: low energies, far apart. L_ent
    is left out until the buffer has had ten times as many states as are compared. The buffer is a reservoir: a uniform
    sample of all states ever stored.
    Source: Du et al. 2021, Improved contrastive divergence training of energy-based models, and its code.

    Args:
        energy_net: E.
        sampler: the chain, in the units of `image_range`; the authors' is 40 steps of η = 100 and τ = 0.001 on [0, 1],
            with `bounds` of [0, 1]. The last step runs in the trainer's precision.
        augment: v, of the states of the buffer that a chain starts from, and not of noise. None is the authors' for
            CIFAR-10: colour jitter (0.8, 0.8, 0.8, 0.4), crop (0.08, 1), greyscale 0.2 and flip.
        in_channels: channels of an image.
        size: side of an image.
        replay_size: states in the buffer.
        replay_storage: uint8, as theirs, takes a quarter of float32's memory.
        reinit_prob: the probability that a chain of training starts from noise.
        image_range: the range of the images that the energy and its chain see.
        dequantize: add uniform noise of one level of 256 to the data.
        alpha: α.
        kl_weight: w_KL.
        entropy_weight: w_ent.
        neighbours: how many b are compared.
        rounds: `sample` runs this many times K steps, each but the first from v of the end of the one before.
        sample_from_replay: `sample` goes on from states of the buffer, not from noise.
        energy_optimizer: of E.
        lr_schedule: stepped once an iteration.
        clip_norm: the limit of the gradient's norm.
        ema_decay: of the average that evaluation uses; 0 is none.

    Raises:
        UserError: the sampler has no steps, or limits the gradient in a way that the last step does not.
    """

    paper = Paper(
        "Improved contrastive divergence training of energy-based models",
        "Yilun Du, Shuang Li, Joshua B. Tenenbaum, Igor Mordatch",
        year=2021,
        venue="ICML",
        arxiv="2012.01316",
    )
    is_baseline = True

    def __init__(
        self,
        energy_net: EnergyNet,
        sampler: Langevin,
        augment: Augment | None = None,
        in_channels: int = 3,
        size: int = 32,
        replay_size: int = 10_000,
        replay_storage: Literal["float32", "uint8"] = "uint8",
        reinit_prob: float = 0.001,
        image_range: tuple[float, float] = (0.0, 1.0),
        dequantize: bool = True,
        alpha: float = 1.0,
        kl_weight: float = 1.0,
        entropy_weight: float = 0.3,
        neighbours: int = 100,
        rounds: int = 1,
        sample_from_replay: bool = False,
        energy_optimizer: OptimizerCallable = Adam,
        lr_schedule: LRSchedulerCallable | None = None,
        clip_norm: float | None = 0.5,
        ema_decay: float = 0.99,
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, size=size, neighbours=neighbours, rounds=rounds)
        at_least(0, alpha=alpha, kl_weight=kl_weight, entropy_weight=entropy_weight)
        if sampler.steps == 0:
            raise UserError("model.sampler.steps is 0; it must be 1 or more, for the last step is learnt from")
        if sampler.clip is not None or sampler.max_step_norm is not None:
            raise UserError(
                "model.sampler.clip and max_step_norm must be null: the last step, learnt from, has no limit"
            )
        self.energy_net = energy_net
        self.sampler = sampler
        self.augment = augment or Augment((0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.4), grayscale_prob=0.2)
        self.replay = ReplayBuffer(
            replay_size, (in_channels, size, size), "reservoir", reinit_prob=reinit_prob, storage=replay_storage
        )
        self.range = ImageRange(*image_range)
        self.dequantize = dequantize
        self.alpha = alpha
        self.kl_weight = kl_weight
        self.entropy_weight = entropy_weight
        self.neighbours = neighbours
        self.rounds = rounds
        self.sample_from_replay = sample_from_replay
        self.energy_optimizer = energy_optimizer
        self.lr_schedule = lr_schedule
        self.clip_norm = clip_norm
        self.averages = averaged(ema_decay, energy_net=energy_net)

    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        x = self.range.inward(dequantized(images) if self.dequantize else images)
        drawn, slots = self.replay.draw(len(x), change=self.augment)
        x0 = self.range.inward(drawn)
        moving = last_step(self.energy_net, before_last(self.sampler, self.energy_net, x0), self.sampler)
        chain = moving.detach()

        data, ends = contrast(self.energy_net, x, chain)
        loss_kl, entropy = held_energy(self.energy_net, moving), self._entropy(moving)
        penalty = data.square().mean() + ends.square().mean()
        loss_cd = data.mean() - ends.mean() + self.alpha * penalty
        loss_energy = loss_cd + self.kl_weight * loss_kl - self.entropy_weight * entropy
        self.replay.store(self.range.outward(chain), slots)
        grad_norm = self.minimize(loss_energy, "energy_net")
        return (
            energy_log_values(data, ends)
            | chain_log_values(self.sampler, x0, chain)
            | {
                "grad_norm": grad_norm,
                "loss_energy": loss_energy.detach(),
                "loss_kl": loss_kl.detach(),
                "entropy": entropy.detach(),
            }
        )

    def _entropy(self, x: Tensor) -> Tensor:
        """−L_ent, of the states stored before this iteration; 0 while there are few.

        The code compares with this iteration's states too. Here an image is not its own neighbour: under a weak
        augmentation the gradient 1/d of its own copy would outweigh all others.
        """
        if self.replay.count < 10 * self.neighbours:
            return torch.zeros((), device=x.device)
        others = self.augment(self.replay.draw(self.neighbours, renew=False)[0])
        return nearest_neighbour_entropy(x, self.range.inward(others))

    def walk(self, sampler: Langevin, energy: Energy, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return noise_first(sampler, energy, x, generator)

    def revisited(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """v(x), of the end of a chain."""
        return self.range.inward(self.augment(self.range.outward(x), generator))
