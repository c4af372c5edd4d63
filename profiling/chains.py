"""One Langevin chain as several write it; all of them are x ← x − η ∇E(x) + τ ξ in fp32."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from ebmzoo.sampling.chain_context import during_chain
from ebmzoo.sampling.langevin import Langevin
from profiling.networks import NOISE, STEP_SIZE

Chain = Callable[[], Tensor]


def plain(net: nn.Module, x: Tensor, steps: int, step_size: float = STEP_SIZE, noise: float = NOISE) -> Tensor:
    """As most write it: the parameters' gradients are computed too, and thrown away."""
    for _ in range(steps):
        x = x.detach().requires_grad_()
        net(x).sum().backward()
        x = x - step_size * x.grad + noise * torch.randn_like(x)
    net.zero_grad()
    return x.detach()


def as_torchebm(net: nn.Module, device: torch.device) -> Any:
    """The network as a model of torchebm."""
    from torchebm.core import BaseModel

    class Model(BaseModel):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(device=device)
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)  # type: ignore[no-any-return]

    return Model()


def torchebm_sampler(model: Any, device: torch.device) -> Any:
    """Its noise is `noise_scale` times √(2η)."""
    from torchebm.samplers import LangevinDynamics

    scale = NOISE / math.sqrt(2 * STEP_SIZE)
    return LangevinDynamics(model, step_size=STEP_SIZE, noise_scale=scale, device=device)


def ebmkit_sampler(steps: int) -> Any:
    """Its noise is a number of its own, as here."""
    from ebm.samplers.langevin import LangevinDynamics

    return LangevinDynamics(step_size=STEP_SIZE, steps=steps, noise_scale=NOISE)


def with_torchebm(net: nn.Module, x: Tensor, steps: int) -> Tensor:
    return torchebm_sampler(as_torchebm(net, x.device), x.device).sample(x=x, n_steps=steps)  # type: ignore[no-any-return]


def with_ebmkit(net: nn.Module, x: Tensor, steps: int) -> Tensor:
    return ebmkit_sampler(steps).sample(net, x)  # type: ignore[no-any-return]


def with_ebmzoo(net: nn.Module, x: Tensor, sampler: Langevin) -> Tensor:
    return sampler(net, x)


def bare(net: nn.Module, x: Tensor, steps: int, precision: str) -> Tensor:
    """The network and its input gradient as the sampler runs them, without a chain: what no sampler can be below."""
    for _ in range(steps):
        with during_chain(net, x.device, precision), torch.enable_grad():
            start = x.detach().requires_grad_()
            (grad,) = torch.autograd.grad(net(start).sum(), start)
    return grad


def chains(net: nn.Module, x: Tensor, steps: int, compiled: bool = False) -> dict[str, Chain]:
    """The contenders: others' with a network as PyTorch makes it, ours and the bare one channels-last."""
    fast, image = copy.deepcopy(net).to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    ours = {p: Langevin(steps, STEP_SIZE, NOISE, precision=p) for p in ("fp32", "bf16")}
    found: dict[str, Chain] = {"plain loop": lambda: plain(net, x, steps)}
    if find_spec("torchebm"):
        found["torchebm"] = lambda: with_torchebm(net, x, steps)
    if find_spec("ebm"):
        found["ebmkit"] = lambda: with_ebmkit(net, x, steps)
    found["ebmzoo, fp32"] = lambda: with_ebmzoo(fast, x, ours["fp32"])
    found["network alone, fp32"] = lambda: bare(fast, image, steps, "fp32")
    found["ebmzoo, bf16"] = lambda: with_ebmzoo(fast, x, ours["bf16"])
    found["network alone, bf16"] = lambda: bare(fast, image, steps, "bf16")
    if compiled:
        sampler = replace(ours["bf16"], compile=True)
        found["ebmzoo, compiled, bf16"] = lambda: with_ebmzoo(fast, x, sampler)
    return found


def exactly() -> AbstractContextManager[None]:
    """On a GPU, convolutions in true fp32, by one algorithm at every call."""
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)  # type: ignore[no-any-return, no-untyped-call]


def disagreement(net: nn.Module, x: Tensor, steps: int) -> dict[str, float]:
    """How far each chain's end is from the plain loop's, with equal seeds and one network in fp32 as PyTorch makes it.

    Raises:
        AssertionError: one ends farther off than 1e-6.
    """
    ours = Langevin(steps, STEP_SIZE, NOISE, precision="fp32", channels_last=False)
    found: dict[str, Chain] = {"plain loop": lambda: plain(net, x, steps), "ebmzoo": lambda: with_ebmzoo(net, x, ours)}
    found |= {name: chain for name, chain in chains(net, x, steps).items() if name in ("torchebm", "ebmkit")}
    ends = {}
    with exactly():
        for name, chain in found.items():
            torch.manual_seed(0)
            ends[name] = chain()
    far = {name: float((end - ends["plain loop"]).abs().max()) for name, end in ends.items()}
    wrong = {name: distance for name, distance in far.items() if not distance <= 1e-6}
    assert not wrong, f"chains of equal seeds differ by more than 1e-6: {wrong}"
    return far
