"""What every method with an energy and a chain logs in an iteration, and the terms that losses are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmzoo.energy import Energy
from ebmzoo.sampling.langevin import Langevin

LogValues = dict[str, Tensor]
"""The values that an iteration logs, by their keys after `train/`."""


def contrast(energy: Energy, x: Tensor, chain: Tensor) -> tuple[Tensor, Tensor]:
    """E(x) and E(x̃), each `(B,)`, in one pass: no layer of an energy mixes the images of a batch.

    mean E(x) − mean E(x̃) is the loss whose gradient is that of maximum likelihood (Dual-MCMC, Eq. 2 and 7), with x̃
    a sample of exp(−E).
    """
    energies = energy(torch.cat([x, chain]))
    return energies[: len(x)], energies[len(x) :]


def squared_error(x: Tensor, y: Tensor) -> Tensor:
    """|x − y|² summed over an image, `(B,)`."""
    return (x - y).square().flatten(1).sum(1)


def energy_log_values(data: Tensor, chain: Tensor) -> LogValues:
    """The energies of the data and of the chains' ends, and the gap between them."""
    data, chain = data.detach().mean(), chain.detach().mean()
    return {"energy_data": data, "energy_chain": chain, "energy_gap": chain - data}


def chain_log_values(sampler: Langevin, start: Tensor, end: Tensor) -> LogValues:
    """How far the chain moved, root mean square per element, and that over √K·τ, what its noise alone would move it."""
    displacement = (end - start).detach().square().mean().sqrt()
    return {"displacement": displacement, "displacement_ratio": displacement / sampler.noise_floor}


@torch.no_grad()
def spread_ratio(energy: Tensor, term: Tensor) -> Tensor:
    """sd(term)/sd(E) over a batch: how far a term decides the order of E(x) − term(x). `()`."""
    spread = energy.detach().std(correction=0)
    return term.detach().std(correction=0) / spread.clamp_min(torch.finfo(spread.dtype).tiny)
