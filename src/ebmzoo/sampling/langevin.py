"""Langevin: the one sampler, a frozen dataclass of numbers that acts on any energy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ebmzoo.energy import Energy, frozen, gradient
from ebmzoo.errors import UserError


class ChainDivergedError(RuntimeError):
    """A Langevin chain left the finite numbers; the message says at which step."""


@dataclass(frozen=True)
class Langevin:
    r"""Unadjusted Langevin dynamics with the gradient step and the noise as two separate numbers.

    .. math:: x \leftarrow x - η ∇E(x) + τ ξ,   ξ ~ N(0, I)

    Its stationary law is exp(−E/T) with T = τ²/2η, up to the bias of a finite step.
    Source: LIEBM (Eq. 9); Du & Mordatch 2019 for η and τ apart; Hill et al. 2022 for the norm of a step.

    Args:
        steps: K, the number of steps; one step is one network evaluation.
        step_size: η, in the units of the images that the energy sees.
        noise: τ, the standard deviation of a step's noise. None means √(2η), temperature one.
        clip: each element of ∇E is clamped to [−clip, clip] (IGEBM). None leaves it as it is.
        max_step_norm: the largest Euclidean norm of one image's gradient step η∇E (Hat EBM: 2.5). None: no limit.
        bounds: the state is clamped to this range after every step. None leaves it free.
        precision: bf16 runs the network under bf16 autocast, fp32 without autocast, ambient as the caller does. The
            state, its noise and its gradient stay fp32 in all three.
        channels_last: keep image states channels-last in memory, which convolutions run faster on.
        compile: run E by `torch.compile`. The first chain of an energy waits for the compiler, minutes for a large one.
        cuda_graph: run E as a CUDA graph, all kernels of a pass launched at once; nothing changes where there is no
            GPU. With it or `compile`, weights, spectral norms and step sizes may change between chains.
    """

    steps: int
    step_size: float
    noise: float | None = None
    clip: float | None = None
    max_step_norm: float | None = None
    bounds: tuple[float, float] | None = None
    precision: Literal["ambient", "fp32", "bf16"] = "ambient"
    channels_last: bool = True
    compile: bool = False
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise UserError(f"sampler.steps is {self.steps}; it must be 0 or more")
        for name in ("step_size", "noise", "clip", "max_step_norm"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise UserError(f"sampler.{name} is {value}; it must be a finite number, 0 or more")
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise UserError(f"sampler.bounds is {list(self.bounds)}; the first must be below the second")

    @classmethod
    def from_delta(cls, steps: int, delta: float, temperature: float = 1.0) -> Langevin:
        """The papers' one-number form: η = δ²/2T and τ = δ, which has temperature T."""
        return cls(steps=steps, step_size=delta**2 / (2 * temperature), noise=delta)

    def lasting(self, steps: int | None) -> Langevin:
        """The same chain with `steps` steps; as it is for None."""
        return self if steps is None else replace(self, steps=steps)

    @property
    def tau(self) -> float:
        """τ, with `noise=None` resolved to √(2η)."""
        return math.sqrt(2 * self.step_size) if self.noise is None else self.noise

    @property
    def temperature(self) -> float:
        """T = τ²/2η of the law exp(−E/T) that the chain targets; NaN when η = 0."""
        return self.tau**2 / (2 * self.step_size) if self.step_size > 0 else math.nan

    @property
    def noise_floor(self) -> float:
        """√K·τ, the root-mean-square displacement per element of a chain whose energy is flat."""
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
        """The state after K steps from `x`, detached; `x` itself is left as it is.

        Shapes: `x` is `(B, *)`; `step_size` and `noise` replace the sampler's own and may be `(B,)`, one an image.

        Raises:
            ChainDivergedError: a state was not finite, with the first step at which it was so.
        """
        x = _start(x, self.channels_last)
        eta, tau = self._sizes(x, step_size, noise)
        with during_chain(energy, x.device, self.precision, once=not self._traces(x)):
            finite = torch.ones(self.steps, dtype=torch.bool, device=x.device)
            for k in range(self.steps):
                x = self._step(energy, x, eta, tau, generator, finite[k])
        _raise_if_diverged(finite, first=1)  # the one time that a chain makes the host wait for the device
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
        """Every state from the start to the K-th, K + 1 in all; a change made in place stays."""
        x = _start(x, self.channels_last)
        eta, tau = self._sizes(x, step_size, noise)
        yield x
        for k in range(self.steps):
            with during_chain(energy, x.device, self.precision, once=not self._traces(x)):
                finite = torch.ones(1, dtype=torch.bool, device=x.device)
                x = self._step(energy, x, eta, tau, generator, finite[0])
            _raise_if_diverged(finite, first=k + 1)
            yield x

    def _traces(self, x: Tensor) -> bool:
        return self.compile or (self.cuda_graph and x.is_cuda)

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
        grad = gradient(traced(energy, self.compile, self.cuda_graph) if self._traces(x) else energy, x)
        if self.clip is not None:
            grad = grad.clamp(-self.clip, self.clip)
        step = eta * grad
        if self.max_step_norm is not None:
            norm = step.flatten(1).norm(dim=1).clamp_min(1e-12)
            step = step * _per_image((self.max_step_norm / norm).clamp_max(1.0), x)
        # Drawn in the logical order of x, so that the memory layout does not change which element gets which number.
        xi = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        x = x - step + tau * xi
        torch.all(torch.isfinite(x), out=finite)
        return x if self.bounds is None else x.clamp(*self.bounds)


def _start(x: Tensor, channels_last: bool) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        layout = torch.channels_last if channels_last and x.dim() == 4 else torch.contiguous_format
        return x.to(torch.promote_types(x.dtype, torch.float32), copy=True, memory_format=layout).detach()


def _per_image(value: float | Tensor, x: Tensor) -> float | Tensor:
    """A `(B,)` tensor shaped to multiply `x`; a number as it is."""
    if isinstance(value, Tensor) and value.dim() == 1:
        return value.to(x.device, x.dtype).view(-1, *[1] * (x.dim() - 1))
    return value


def _modules(energy: object) -> Iterator[nn.Module]:
    """The networks inside an energy: itself, or those among the fields of an energy made of energies."""
    if isinstance(energy, nn.Module):
        yield energy
    elif is_dataclass(energy):
        for field in fields(energy):
            value = getattr(energy, field.name)
            for part in value if isinstance(value, tuple) else (value,):
                yield from _modules(part)


def _value(energy: Energy, x: Tensor) -> Tensor:
    return energy(x)


@cache
def _tracer(fuse: bool, cuda_graph: bool) -> Callable[[Energy, Tensor], Tensor]:
    # the energy is an argument, so that those made anew for every chain, of the same networks, are traced once
    if not fuse:
        return torch.compile(_value, backend="cudagraphs")
    return torch.compile(_value, mode="reduce-overhead" if cuda_graph else None)


def traced(energy: Energy, fuse: bool, cuda_graph: bool) -> Energy:
    """The same energy, run by `torch.compile`: with fused kernels, as a CUDA graph, or both."""
    run = _tracer(fuse, cuda_graph)

    def value(x: Tensor) -> Tensor:
        if cuda_graph and x.is_cuda:
            # the gradient of the step before has been used
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return run(energy, x)

    return value


@contextmanager
def during_chain(energy: Energy, device: torch.device, precision: str, once: bool = True) -> Iterator[None]:
    """Parameters frozen, autocast as asked, reparametrised weights (spectral norm) still, with `once` computed once."""
    kind = device.type
    on, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    if precision != "ambient":
        on, dtype = precision == "bf16", torch.bfloat16
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(frozen(*_modules(energy)))
        # autocast would keep its cast of every state, which needs a gradient as a weight does, until it ends
        stack.enter_context(torch.autocast(kind, dtype, enabled=on, cache_enabled=False))
        stack.enter_context(parametrize.cached() if once else _still(*_modules(energy)))
        yield


@contextmanager
def _still(*modules: nn.Module) -> Iterator[None]:
    """Reparametrised weights move once, as one reading does that the chain keeps, and not at each step.

    A traced energy computes them anew at every step, as `torch.compile` cannot follow `parametrize.cached`.
    """
    held = []
    for module in {part for m in modules for part in m.modules() if parametrize.is_parametrized(part)}:
        for name, chain in module.parametrizations.items():  # type: ignore[union-attr, operator]
            moving = [part for part in chain.modules() if part.training]
            if moving:
                getattr(module, name)
            held += moving
    for part in held:
        part.training = False
    try:
        yield
    finally:
        for part in held:
            part.training = True


def _raise_if_diverged(finite: Tensor, first: int) -> None:
    bad = (~finite).nonzero()
    if len(bad):
        raise ChainDivergedError(
            f"the Langevin chain left the finite numbers at step {first + int(bad[0])}: "
            "lower the step size or set a limit (clip, max_step_norm, bounds)"
        )
