"""The sign of the energy, what an energy network is, and its gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Energy = Callable[[Tensor], Tensor]
"""`(B, *) -> (B,)`, low where data is likely: p(x) ∝ exp(−E(x))."""


class EnergyNet(nn.Module, ABC):
    """A network that is an energy: p(x) ∝ exp(−E(x)).

    Papers that write +log-density are converted here, at the network's output, and nowhere else.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """E(x): images `(B, C, H, W)` in [-1, 1] to energies `(B,)`."""


def at_least_fp32(x: Tensor) -> Tensor:
    """`x` in fp32, or in double precision if it came so: energies are never in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def gradient(energy: Energy, x: Tensor) -> Tensor:
    """∇E(x) of each image, with the shape of `x`; works under `no_grad` and inside `inference_mode`.

    The sum over the batch is differentiated, so the energy of one image must not depend on another's.
    """
    return with_gradient(energy, x)[1]


def with_gradient(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """E(x), detached, and `gradient`."""
    with torch.inference_mode(False), torch.enable_grad():
        x = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
        value = energy(x)
        (grad,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), grad


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within it the parameters of `modules` need no gradient; afterwards each is as it was.

    Autograd then keeps no activation that only a parameter's gradient would need, and autocast caches no cast weight.
    """
    parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)
