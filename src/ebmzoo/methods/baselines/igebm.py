"""IGEBM: an energy learnt by contrastive divergence, with chains that go on from a replay buffer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, final

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Adam

from ebmzoo.data.image_range import ImageRange, dequantized
from ebmzoo.energy import Energy, EnergyNet
from ebmzoo.errors import at_least
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.methods.base.log_values import LogValues, chain_log_values, contrast, energy_log_values
from ebmzoo.methods.base.paper import Paper
from ebmzoo.methods.families.noise_chain import ChainFromReplay, noise_first
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.replay import ReplayBuffer


class ClippedAdam(Adam):
    """Adam on gradients whose every element is first clamped to ±(3 √(v/(1 − β₂ᵗ)) + 0.1).

    v is Adam's running mean of the squared gradient before this, the t-th, step, so that the first bound is 0.1.
    Source: the code of Du & Mordatch 2019.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.0, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, lr, betas, eps)
        self.register_step_pre_hook(lambda *_: self.clamp_gradients())

    @torch.no_grad()
    def clamp_gradients(self) -> None:
        """Clamp the gradients of the parameters in place."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    v = state.get("exp_avg_sq", torch.zeros_like(p))
                    t = float(state.get("step", 0)) + 1
                    bound = 3 * (v / (1 - group["betas"][1] ** t)).sqrt() + 0.1
                    p.grad.clamp_(-bound, bound)


@final
class IGEBM(ChainFromReplay):
    """An energy whose chains continue past chains, or start anew with a small probability.

    Paper: Yilun Du, Igor Mordatch: Implicit generation and modeling with energy-based models. NeurIPS 2019,
    arXiv:1903.08689.

    p(x) ∝ exp(−E(x)). An iteration is

        x₀ from the buffer, or U(−1, 1) with probability `reinit_prob`
        x̃ by K steps y = x + τξ, x ← y − η∇E(y), from x₀; x̃ replaces the oldest state of the buffer
        L_E = mean E(x) − mean E(x̃) + α [mean E(x)² + mean E(x̃)²]

    Source: Du & Mordatch 2019, Implicit generation and modeling with energy-based models, Algorithm 1, and its code.

    Args:
        energy_net: E.
        sampler: the chain, in the units of `image_range`; the authors' is 60 steps of η = 10 and τ = 0.005 on [0, 1],
            with each element of the gradient in ±0.01 (`clip`) and `bounds` of [0, 1].
        in_channels: channels of an image.
        size: side of an image.
        replay_size: states in the buffer.
        replay_storage: uint8, as theirs, takes a quarter of float32's memory.
        reinit_prob: the probability that a chain of training starts from noise.
        image_range: the range of the images that the energy and its chain see.
        dequantize: add uniform noise of one level of 256 to the data.
        alpha: α.
        rounds: `sample` runs this many times K steps. A state of the buffer has had K/`reinit_prob` on average.
        sample_from_replay: `sample` goes on from states of the buffer, as the authors' evaluation while training does,
            and not from noise.
        energy_optimizer: of E; theirs is `ClippedAdam`.
        lr_schedule: stepped once an iteration.
        clip_norm: the limit of the gradient's norm.
        ema_decay: of the average that evaluation uses; 0 is none, as theirs.
    """

    paper = Paper(
        "Implicit generation and modeling with energy-based models",
        "Yilun Du, Igor Mordatch",
        year=2019,
        venue="NeurIPS",
        arxiv="1903.08689",
    )
    is_baseline = True

    def __init__(
        self,
        energy_net: EnergyNet,
        sampler: Langevin,
        in_channels: int = 3,
        size: int = 32,
        replay_size: int = 50_000,
        replay_storage: Literal["float32", "uint8"] = "uint8",
        reinit_prob: float = 0.05,
        image_range: tuple[float, float] = (0.0, 1.0),
        dequantize: bool = True,
        alpha: float = 1.0,
        rounds: int = 1,
        sample_from_replay: bool = False,
        energy_optimizer: OptimizerCallable = ClippedAdam,
        lr_schedule: LRSchedulerCallable | None = None,
        clip_norm: float | None = None,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, size=size, rounds=rounds)
        at_least(0, alpha=alpha)
        self.energy_net = energy_net
        self.sampler = sampler
        self.alpha = alpha
        self.replay = ReplayBuffer(
            replay_size, (in_channels, size, size), "ring", reinit_prob=reinit_prob, storage=replay_storage
        )
        self.range = ImageRange(*image_range)
        self.dequantize = dequantize
        self.rounds = rounds
        self.sample_from_replay = sample_from_replay
        self.energy_optimizer = energy_optimizer
        self.lr_schedule = lr_schedule
        self.clip_norm = clip_norm
        self.averages = averaged(ema_decay, energy_net=energy_net)

    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        x = self.range.inward(dequantized(images) if self.dequantize else images)
        drawn, slots = self.replay.draw(len(x))
        x0 = self.range.inward(drawn)
        kept = self.range.outward(self.walk(self.sampler, self.energy_net, x0, None))
        self.replay.store(kept, slots)
        chain = self.range.inward(kept)  # E is trained on the states that the buffer keeps, to the last bit

        data, ends = contrast(self.energy_net, x, chain)
        penalty = data.square().mean() + ends.square().mean()
        loss_energy = data.mean() - ends.mean() + self.alpha * penalty
        grad_norm = self.minimize(loss_energy, "energy_net")
        return (
            energy_log_values(data, ends)
            | chain_log_values(self.sampler, x0, chain)
            | {"grad_norm": grad_norm, "loss_energy": loss_energy.detach()}
        )

    def walk(self, sampler: Langevin, energy: Energy, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return noise_first(sampler, energy, x, generator)
