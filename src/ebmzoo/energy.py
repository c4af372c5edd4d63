"""The sign convention of energies, the base class of energy networks, and gradients of energies."""

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

    Papers that write +log-density are converted once, at the network's output.

    >>> class Quadratic(EnergyNet):
    ...     def forward(self, x):
    ...         return x.square().flatten(1).sum(1) / 2
    >>> gradient(Quadratic(), torch.tensor([[1.0, -2.0]]))
    tensor([[ 1., -2.]])
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return E(x): images `(B, C, H, W)` in [-1, 1] to energies `(B,)`."""


def at_least_fp32(x: Tensor) -> Tensor:
    """Return `x` in fp32, or in double precision if `x` is double: energies are never in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def gradient(energy: Energy, x: Tensor) -> Tensor:
    """Return ∇E(x) of each image, `(B, *)` like `x`; this works under `no_grad` and inside `inference_mode`.

    The sum over the batch is differentiated, so the energy of one image must not depend on another.

    >>> gradient(lambda x: x.square().sum(1) / 2, torch.tensor([[1.0, -2.0]]))
    tensor([[ 1., -2.]])
    """
    return with_gradient(energy, x)[1]


def with_gradient(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return E(x), `(B,)` and detached, and ∇E(x), `(B, *)`, as `gradient` does."""
    with torch.inference_mode(False), torch.enable_grad():
        x = savable(x).detach().requires_grad_()
        value = energy(x)
        (grad,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), grad


def trainable_gradient(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return E(x), `(B,)`, and ∇E(x), `(B, *)`, both functions of E's parameters and of x, for a loss on ∇E.

    The loss must be differentiated within `sdpa_kernel(SDPBackend.MATH)`, as this must be called, where E has
    attention: its other kernels have no second derivative.

    >>> k = torch.tensor(3.0, requires_grad=True)
    >>> _, grad = trainable_gradient(lambda x: k * x.square().sum(1) / 2, torch.tensor([[2.0]]))
    >>> grad.sum().backward()  # of k x
    >>> k.grad
    tensor(2.)
    """
    if not x.requires_grad:
        x = x.detach().requires_grad_()
    value = energy(x)
    (grad,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    return value, grad


def savable(x: Tensor) -> Tensor:
    """Return `x`, or a copy of it if it was created under inference mode, as only the copy can be part of a graph.

    The copy must be made outside inference mode. `torch.compile`, which cannot ask, makes it always, and fuses it.
    """
    return x.clone() if torch.compiler.is_compiling() or x.is_inference() else x


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Switch off the gradients of the parameters of `modules` inside the block, and restore them afterwards.

    Autograd then stores no activation that only the gradient of a parameter needs, and autocast caches no cast weight.
    """
    parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)
