"""How networks run while a chain walks on them: frozen, under the chain's precision, traced by `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ebmzoo.energy import Energy, frozen
from ebmzoo.sampling.auto_precision import takes_bf16

Moves = Literal["cached", "traced", "each"]
"""How a chain computes weights with a parametrization: once, anew but unmoved, or anew with a power iteration."""


def _modules(energy: object) -> Iterator[nn.Module]:
    """Yield the networks of an energy: itself, or those among the fields of an energy composed of energies."""
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
def _tracer() -> Callable[[Energy, Tensor], Tensor]:
    # The energy is an argument, so that a new composition of the same networks, built for each chain, is traced once.
    # The mode makes one CUDA graph of the fused kernels, which launches them at once; a CPU's code is the same without.
    return torch.compile(_value, mode="reduce-overhead")


def traced(energy: Energy) -> Energy:
    """Return the same energy, run by `torch.compile`: with fused kernels, on a GPU as one CUDA graph."""
    run = _tracer()

    def value(x: Tensor) -> Tensor:
        if x.is_cuda:
            # The gradient of the previous step is no longer needed.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return run(energy, x)

    return value


@contextmanager
def during_chain(energy: Energy, device: torch.device, precision: str, moves: Moves = "cached") -> Iterator[None]:
    """Freeze the parameters of `energy`, set autocast, and say how often reparametrised weights (spectral norm) move.

    Args:
        energy: The energy that the chain walks on.
        device: Device of the chain, for autocast.
        precision: `ambient`, `fp32`, `bf16` or `auto`, as for `Langevin`.
        moves: `cached` computes each reparametrised weight once; `traced` at each step, without moving it, for an
            energy that is traced; `each` at each step, where in training mode it makes a power iteration.
    """
    kind = device.type
    on, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    if precision != "ambient":
        on, dtype = precision == "bf16" or (precision == "auto" and takes_bf16(kind)), torch.bfloat16
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(frozen(*_modules(energy)))
        # Autocast would keep its cast of every state until it ends, as a state needs a gradient like a weight.
        stack.enter_context(torch.autocast(kind, dtype, enabled=on, cache_enabled=False))
        if moves == "cached":
            stack.enter_context(parametrize.cached())
        elif moves == "traced":
            stack.enter_context(_still(*_modules(energy)))
        yield


@contextmanager
def _still(*modules: nn.Module) -> Iterator[None]:
    """Update reparametrised weights once, as `parametrize.cached` does on the first access, and not at each step.

    A traced energy computes them anew at every step, as `torch.compile` cannot follow `parametrize.cached`.
    """
    stilled = []
    for module in {part for m in modules for part in m.modules() if parametrize.is_parametrized(part)}:
        for name, chain in module.parametrizations.items():  # type: ignore[union-attr, operator]
            moving = [part for part in chain.modules() if part.training]
            if moving:
                getattr(module, name)
            stilled += moving
    for part in stilled:
        part.training = False
    try:
        yield
    finally:
        for part in stilled:
            part.training = True
