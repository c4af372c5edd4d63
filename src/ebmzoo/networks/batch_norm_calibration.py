"""The batch statistics that a generator is evaluated with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import final

import torch
from torch import Tensor, nn

from ebmzoo.networks.base import Generator

BATCHES, SIZE = 10, 100


def norms(network: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    """The batch norms of a network."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]


@torch.no_grad()
def calibrated(generator: Generator, place: Callable[[Tensor], Tensor] | None = None) -> Generator:
    """A copy of G in eval mode, whose batch norms have the statistics of G(m), m ~ N(0, I), over 10 batches of 100.

    With `place` they are those of G(place(m)).

    The running statistics of training are of other latents too (those inferred from data), and of other weights than an
    average's. The latents are the same at every call, and no other random number is drawn. Without batch norms it is G.
    """
    if not norms(generator):
        return generator
    copy = deepcopy(generator).requires_grad_(False).train()
    device = next(copy.parameters()).device
    random = torch.Generator(device).manual_seed(0)
    for norm in norms(copy):
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    for _ in range(BATCHES):
        m = torch.randn(SIZE, copy.latent, device=device, generator=random, dtype=next(copy.parameters()).dtype)
        copy(m if place is None else place(m))
    return copy.eval()


@final
class Calibration:
    """`calibrated`, kept until a tensor of the generator, or one that `place` is made `of`, changes or moves."""

    _kept: tuple[object, Generator] | None = None
    _suspended: bool = False

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Within it a generator is returned as it is, for a dry run that needs nothing but shapes."""
        self._suspended = True
        try:
            yield
        finally:
            self._suspended = False

    def __call__(
        self, generator: Generator, place: Callable[[Tensor], Tensor] | None = None, of: Iterable[Tensor] = ()
    ) -> Generator:
        if self._suspended:
            return generator
        tensors = (*generator.parameters(), *generator.buffers(), *of)
        state = id(generator), [(tensor._version, tensor.device, tensor.dtype) for tensor in tensors]
        if self._kept is None or self._kept[0] != state:
            self._kept = state, calibrated(generator, place)
        return self._kept[1]
