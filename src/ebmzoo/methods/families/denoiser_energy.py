"""What methods with a denoiser share: its error as an energy, and chains whose energy changes as they go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast, final

import torch
from torch import Tensor, nn

from ebmzoo.data.fixed_noise import fixed_noise
from ebmzoo.energy import Energy
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import HasStochasticScore
from ebmzoo.methods.families.restoration import RestoresByDenoiser
from ebmzoo.networks.denoiser import Denoiser
from ebmzoo.sampling.denoiser_energies import DenoisingError
from ebmzoo.sampling.langevin import Langevin

Link = tuple[Langevin, Energy]


def linked(links: Iterable[Link], x: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """`x`, and the end of each chain, which starts where the one before it ended."""
    yield x
    for sampler, energy in links:
        x = sampler(energy, x, generator=generator)
        yield x


@contextmanager
def in_eval_mode(*networks: nn.Module | None) -> Iterator[None]:
    """Within it the networks are in eval mode: no dropout, and batch norms by their running statistics."""
    given = [network for network in networks if network is not None]
    modes = [network.training for network in given]
    for network in given:
        network.eval()
    try:
        yield
    finally:
        for network, training in zip(given, modes, strict=True):
            network.train(training)


def check_scoring(energy_sigma: float, ood_seeds: int) -> None:
    """Raises `UserError` unless there is a noise and a seed to score with."""
    if not energy_sigma > 0:
        raise UserError(f"model.energy_sigma is {energy_sigma}; it must be above 0")
    if ood_seeds < 1:
        raise UserError(f"model.ood_seeds is {ood_seeds}; it must be 1 or more")


class ScoresByDenoising(RestoresByDenoiser, HasStochasticScore):
    """A method with a network `denoiser`, whose error at one σ is its energy, or in place of one where it has none.

    E(x) = mean over seeds of w(σ) |x − r(x + σε, σ)|². Each seed has one ε, the same for all images: an image's
    energy is its own function of the image alone. Source: Denoising-EBM, §5 (out-of-distribution detection, σ = 0.05).
    """

    denoiser: Denoiser
    energy_sigma: float
    sigma_floor: float

    @final
    def ood_scores(self, x: Tensor) -> Tensor:
        net, sigma = cast(Denoiser, self.network("denoiser")), x.new_full(x.shape[:1], self.energy_sigma)
        scores = []
        for seed in range(self.ood_seeds):
            noise = fixed_noise("normal", (1, *x.shape[1:]), seed).to(x)  # on every device the same
            scores.append(DenoisingError(net, sigma, self.sigma_floor, noise)(x))
        return torch.stack(scores)

    @final
    def energy(self, x: Tensor) -> Tensor:
        return self.ood_scores(x).mean(0)

    @property
    @final
    def has_density(self) -> bool:
        return False

    @final
    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        return cast(Tensor, self.network("denoiser")(x, x.new_full((len(x),), sigma)))
