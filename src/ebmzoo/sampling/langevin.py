"""Unadjusted Langevin dynamics, the one sampler of every method: a frozen dataclass that acts on any energy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ebmzoo.energy import Energy, gradient
from ebmzoo.errors import UserError
from ebmzoo.sampling.auto_precision import Precision
from ebmzoo.sampling.chain_context import Moves, during_chain, traced


class ChainDivergedError(RuntimeError):
    """The state of a Langevin chain became infinite or NaN; the message names the first such step.

    >>> chain = Langevin(steps=3, step_size=1.0)
    >>> chain(lambda x: torch.inf * x.square().sum(1), torch.ones(1, 2))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ebmzoo.sampling.langevin.ChainDivergedError: the state of the Langevin chain became infinite or NaN at step 1: ...
    """


@dataclass(frozen=True)
class Langevin:
    """Unadjusted Langevin dynamics with the gradient step and the noise as two separate numbers:

        x ← x − η ∇E(x) + τ ξ,   ξ ~ N(0, I).

    Its stationary law is exp(−E/T) with T = τ²/2η, up to the bias of a finite step.
    Source: LIEBM (Eq. 9); Du & Mordatch (2019) for separate η and τ; Hill et al. (2022) for the limit on a step's norm.

    >>> chain = Langevin(steps=2, step_size=0.5, noise=0.0)
    >>> chain(lambda x: x.square().sum(1) / 2, torch.ones(1, 2))
    tensor([[0.2500, 0.2500]])
    >>> Langevin.from_delta(steps=10, delta=0.5, temperature=0.5).temperature
    0.5

    Args:
        steps: K, the number of steps; one step is one network evaluation.
        step_size: η, in the units of the images that the energy receives.
        noise: τ, the standard deviation of the noise of one step. None means √(2η), temperature one.
        clip: Each element of ∇E is clamped to [−clip, clip] (IGEBM). None leaves it unclamped.
        max_step_norm: Largest Euclidean norm of one image's gradient step η∇E (Hat EBM: 2.5). None means no limit.
        bounds: The state is clamped to this range after every step. None leaves it unclamped.
        precision: `bf16` runs the network under bf16 autocast, `fp32` without autocast, `ambient` under the caller's
            autocast, `auto` as bf16 on a GPU that has it and a CPU with AMX, else as fp32, and says which. The state,
            its noise and its gradient are fp32 in all of them.
        channels_last: Keep image states channels-last in memory, on which convolutions run faster.
        compile: Run E through `torch.compile`, on a GPU as one CUDA graph. The first chain of an energy waits for the
            compiler, minutes for a large network; weights, spectral norms and step sizes may change between chains.
        power_iterations: When spectral norms make a power iteration in training mode: once a `chain`, which then
            descends one fixed energy, or at every `step`, as the codes of CLEL and Dual-MCMC do. In eval mode none is
            made.

    Raises:
        UserError: If a number is negative or not finite, the lower bound is not below the upper one, or
            `power_iterations` is `step` together with `compile`.
    """

    steps: int
    step_size: float
    noise: float | None = None
    clip: float | None = None
    max_step_norm: float | None = None
    bounds: tuple[float, float] | None = None
    precision: Precision = "ambient"
    channels_last: bool = True
    compile: bool = False
    power_iterations: Literal["chain", "step"] = "chain"

    evaluations: ClassVar[int] = 1
    """The network evaluations of one step."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise UserError(f"sampler.steps is {self.steps}; it must be 0 or more")
        for name in ("step_size", "noise", "clip", "max_step_norm"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise UserError(f"sampler.{name} is {value}; it must be a finite number, 0 or more")
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise UserError(f"sampler.bounds is {list(self.bounds)}; the first must be below the second")
        if self.power_iterations not in ("chain", "step"):
            raise UserError(f"sampler.power_iterations is {self.power_iterations!r}; it must be 'chain' or 'step'")
        if self.power_iterations == "step" and self.compile:
            raise UserError("sampler.power_iterations is 'step'; with compile it must be 'chain'")

    @classmethod
    def from_delta(cls, steps: int, delta: float, temperature: float = 1.0) -> Langevin:
        """Return the chain of the papers' one-number form: η = δ²/2T and τ = δ, which has temperature T."""
        return cls(steps=steps, step_size=delta**2 / (2 * temperature), noise=delta)

    def lasting(self, steps: int | None) -> Langevin:
        """Return the same chain with `steps` steps, or this chain if `steps` is None."""
        return self if steps is None else replace(self, steps=steps)

    @property
    def tau(self) -> float:
        """τ, with `noise=None` resolved to √(2η)."""
        return math.sqrt(2 * self.step_size) if self.noise is None else self.noise

    @property
    def temperature(self) -> float:
        """T = τ²/2η of the law exp(−E/T) that the chain targets; NaN if η = 0."""
        return self.tau**2 / (2 * self.step_size) if self.step_size > 0 else math.nan

    @property
    def noise_floor(self) -> float:
        """√K·τ, the root-mean-square displacement per element of a chain on a constant energy."""
        return math.sqrt(self.steps) * self.tau

    def __call__(
        self,
        energy: Energy,
        x: Tensor,
        *,
        step_size: float | Tensor | None = None,
        noise: float | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the state after K steps from `x`, `(B, *)`, detached; `x` itself does not change.

        Args:
            energy: E, `(B, *)` to `(B,)`; the energy of one image must not depend on another.
            x: The start, `(B, *)`.
            step_size: η in place of the sampler's own, a number or `(B,)`.
            noise: τ in place of the sampler's own, a number or `(B,)`.
            generator: Source of the noise; None is torch's global generator.

        Raises:
            ChainDivergedError: If a state is infinite or NaN; the message names the first such step.
        """
        x = _start(x, self.channels_last)
        eta, tau = self._sizes(x, step_size, noise)
        with during_chain(energy, x.device, self.precision, moves=self._moves):
            finite = torch.ones(self.steps, dtype=torch.bool, device=x.device)
            for k in range(self.steps):
                x = self._step(energy, x, eta, tau, generator, finite[k])
        if self.steps:
            _raise_if_diverged(finite, first=1)  # the only point at which the host waits for the device
        return x

    def path(
        self,
        energy: Energy,
        x: Tensor,
        *,
        step_size: float | Tensor | None = None,
        noise: float | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[Tensor]:
        """Yield all K + 1 states from the start to the last; the chain continues from in-place changes to a state.

        The arguments and errors are those of a call.
        """
        x = _start(x, self.channels_last)
        eta, tau = self._sizes(x, step_size, noise)
        yield x
        for k in range(self.steps):
            with during_chain(energy, x.device, self.precision, moves=self._moves):
                finite = torch.ones(1, dtype=torch.bool, device=x.device)
                x = self._step(energy, x, eta, tau, generator, finite[0])
            _raise_if_diverged(finite, first=k + 1)
            yield x

    @property
    def _moves(self) -> Moves:
        return "each" if self.power_iterations == "step" else "traced" if self.compile else "cached"

    def _sizes(
        self, x: Tensor, step_size: float | Tensor | None, noise: float | Tensor | None
    ) -> tuple[float | Tensor, float | Tensor]:
        eta = self.step_size if step_size is None else step_size
        tau = self.noise if noise is None else noise
        return _per_image(eta, x), _per_image((2 * eta) ** 0.5 if tau is None else tau, x)

    def _step(
        self,
        energy: Energy,
        x: Tensor,
        eta: float | Tensor,
        tau: float | Tensor,
        generator: torch.Generator | None,
        finite: Tensor,
    ) -> Tensor:
        step = self._descent(energy, x, eta)
        return self._bounded(x - step + tau * self._noise(x, generator), finite)

    def _descent(self, energy: Energy, x: Tensor, eta: float | Tensor) -> Tensor:
        """η∇E(x), within the limits."""
        grad = gradient(traced(energy) if self.compile else energy, x)
        if self.clip is not None:
            grad = grad.clamp(-self.clip, self.clip)
        step = eta * grad
        if self.max_step_norm is not None:
            norm = step.flatten(1).norm(dim=1).clamp_min(1e-12)
            step = step * _per_image((self.max_step_norm / norm).clamp_max(1.0), x)
        return step

    def _noise(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        # Drawn in the logical order of x, so that the memory layout does not change which element gets which number.
        return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    def _bounded(self, x: Tensor, finite: Tensor) -> Tensor:
        torch.all(torch.isfinite(x), out=finite)
        return x if self.bounds is None else x.clamp(*self.bounds)


def _start(x: Tensor, channels_last: bool) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        layout = torch.channels_last if channels_last and x.dim() == 4 else torch.contiguous_format
        return x.to(torch.promote_types(x.dtype, torch.float32), copy=True, memory_format=layout).detach()


def _per_image(value: float | Tensor, x: Tensor) -> float | Tensor:
    """Return a `(B,)` tensor in a shape that multiplies `x`, and a number unchanged."""
    if isinstance(value, Tensor) and value.dim() == 1:
        return value.to(x.device, x.dtype).view(-1, *[1] * (x.dim() - 1))
    return value


def _raise_if_diverged(finite: Tensor, first: int) -> None:
    bad = (~finite).nonzero()
    if len(bad):
        raise ChainDivergedError(
            f"the state of the Langevin chain became infinite or NaN at step {first + int(bad[0])}: "
            "lower the step size or set a limit (clip, max_step_norm, bounds)"
        )
