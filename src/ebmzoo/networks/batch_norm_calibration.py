"""Batch norm statistics for the evaluation of a generator, measured on the latents that it then receives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import final

import torch
from torch import Tensor, nn

from ebmzoo.networks.base import Generator

BATCHES, SIZE = 10, 100  # number of batches of latents, and latents in each


def norms(network: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    """Return the batch norms of a network."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]


@torch.no_grad()
def calibrated(generator: Generator, transform: Callable[[Tensor], Tensor] | None = None) -> Generator:
    """Return a copy of G in eval mode, its batch norms with the statistics of G(m), m ~ N(0, I), or of G(transform(m)).

    They are means over 10 batches of 100 latents, which are the same at every call; torch's random state does not
    change. A generator without batch norms is returned itself. The running statistics of training are unsuitable: they
    also come from latents that were inferred from data, and from other weights than those of an average.
    """
    if not norms(generator):
        return generator
    copy = deepcopy(generator).requires_grad_(False).train()
    device = next(copy.parameters()).device
    random = torch.Generator(device).manual_seed(0)
    for norm in norms(copy):
        norm.reset_running_stats()
    for k in range(BATCHES):
        for norm in norms(copy):
            norm.momentum = 1 / (k + 1)  # the mean over batches; with None torch would ask the device for k
        m = torch.randn(SIZE, copy.latent, device=device, generator=random, dtype=next(copy.parameters()).dtype)
        copy(m if transform is None else transform(m))
    return copy.eval()


def batchwise(generator: Generator) -> Generator:
    """Return a copy of G whose batch norms have the statistics of each batch, and whose running statistics stay.

    A generator without batch norms is returned itself. An image then depends on the others of its batch.
    """
    if not norms(generator):
        return generator
    copy = deepcopy(generator).requires_grad_(False).eval()
    for norm in norms(copy):
        norm.train()
        norm.momentum = 0.0
    return copy


@final
class Calibration:
    """A cache of `calibrated`: the copy is computed anew only after a tensor that it depends on has changed."""

    _cached: tuple[object, Generator] | None = None
    _suspended: bool = False

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Return generators uncalibrated inside the block, for a trial run of which only the shapes are used."""
        self._suspended = True
        try:
            yield
        finally:
            self._suspended = False

    def __call__(
        self,
        generator: Generator,
        transform: Callable[[Tensor], Tensor] | None = None,
        dependencies: Iterable[Tensor] = (),
        by_batch: bool = False,
    ) -> Generator:
        """Return the calibrated copy of `generator`; `dependencies` are the tensors that `transform` is made from.

        With `by_batch` it is the copy of `batchwise` instead.
        """
        if self._suspended:
            return generator
        tensors = (*generator.parameters(), *generator.buffers(), *dependencies)
        state = id(generator), by_batch, [(tensor._version, tensor.device, tensor.dtype) for tensor in tensors]
        if self._cached is None or self._cached[0] != state:
            self._cached = state, batchwise(generator) if by_batch else calibrated(generator, transform)
        return self._cached[1]
