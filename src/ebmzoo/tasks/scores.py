"""Out-of-distribution scores of a trained method besides its energy; all are higher farther from the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ebmzoo.data.image_range import ImageRange
from ebmzoo.energy import Energy, gradient
from ebmzoo.methods.base.capabilities import Classifies, Denoises, HasChain, Reconstructs
from ebmzoo.methods.base.method import Method
from ebmzoo.sampling.langevin import Langevin

Score = Callable[[Tensor], Tensor]
"""Images `(B, C, H, W)` in [-1, 1] to scores `(B,)`."""

SCORES = ("energy", "score", "gradient", "drop", "reconstruction", "confidence")


@dataclass(frozen=True)
class GradientNorm:
    """|∇E(x)|₂, with x in [-1, 1]: small near the modes of the density, whatever the value of E there.

    Source: Grathwohl et al. 2020 (JEM), the approximate mass, with the opposite sign.
    """

    energy: Energy

    def __call__(self, x: Tensor) -> Tensor:
        norms: Tensor = gradient(self.energy, x).flatten(1).norm(dim=1)
        return norms

    def __str__(self) -> str:
        return "|∇E(x)|"

    def exists(self, x: Tensor) -> bool:
        """Whether E has a gradient with respect to images; an energy on the latents of a frozen encoder has none."""
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            energy = self.energy(x).sum()
            return energy.requires_grad and torch.autograd.grad(energy, x, allow_unused=True)[0] is not None


@dataclass(frozen=True)
class EnergyDrop:
    """E(x) − E(x_K), x_{k+1} = x_k − η∇E(x_k): the decrease of E along the sampling chain from x without its noise.

    E, η, the limit on a step and the bounds are those of the chain. Source: our own.
    """

    energy: Energy
    descent: Langevin
    image_range: ImageRange

    @classmethod
    def of(cls, method: HasChain, steps: int) -> EnergyDrop:
        """Build the score with `steps` steps of the method's own chain."""
        return cls(method.chain_energy(), replace(method.sampler, steps=steps, noise=0.0), method.range)

    def __call__(self, x: Tensor) -> Tensor:
        x = self.image_range.inward(x)
        return self.energy(x) - self.energy(self.descent(self.energy, x))

    def __str__(self) -> str:
        return f"E(x) − E(x_K), K = {self.descent.steps} steps of its chain without noise"


@dataclass(frozen=True)
class ReconstructionError:
    """|x − G(μ(x))|², the sum over pixels in [-1, 1]. Source: An & Cho 2015, with the mean of q instead of draws."""

    method: Reconstructs

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.method.decode_inferred(self.method.infer(x))).square().flatten(1).sum(1)

    def __str__(self) -> str:
        return "|x − G(μ(x))|²"


@dataclass(frozen=True)
class DenoisingGap:
    """|x − r(x + σε, σ)|², the sum over pixels in [-1, 1], with one ε ~ N(0, I) for all images.

    The score of an image is therefore a function of that image alone. Source: Graham et al. 2023, at one noise level.
    """

    method: Denoises
    sigma: float

    def __call__(self, x: Tensor) -> Tensor:
        # drawn on the CPU, so that the noise is the same on every device
        eps = torch.randn(1, *x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x)
        return (x - self.method.denoise(x + self.sigma * eps, self.sigma)).square().flatten(1).sum(1)

    def __str__(self) -> str:
        return f"|x − r(x + σε, σ)|², σ = {self.sigma:g}"


@dataclass(frozen=True)
class Unconfidence:
    """−log max_y p(y|x), of a method that classifies. Source: Hendrycks & Gimpel 2017, without the logarithm."""

    method: Classifies

    def __call__(self, x: Tensor) -> Tensor:
        return -self.method.class_logits(x).log_softmax(1).amax(1)

    def __str__(self) -> str:
        return "−log max p(y|x)"


@dataclass(frozen=True)
class NamedScore:
    """A score of the method itself, with its description in protocols."""

    score: Score
    description: str

    def __call__(self, x: Tensor) -> Tensor:
        return self.score(x)

    def __str__(self) -> str:
        return self.description


def available_scores(method: Method, x: Tensor, drop_steps: int, sigma: float) -> dict[str, Score]:
    """The scores among `SCORES` that the method has, by name; `str` of a score is its description.

    Args:
        method: The method, with an energy of images in [-1, 1]; of several noise levels, the lowest is used.
        x: Any images `(B, C, H, W)`, used to find out whether the energy has a gradient.
        drop_steps: The number K of steps of `drop`, for methods with a chain on images.
        sigma: The noise σ of `reconstruction`, for denoisers; methods that infer latents reconstruct without noise.
    """
    scores: dict[str, Score] = {
        "energy": NamedScore(method.energy, "E(x)"),
        "score": NamedScore(method.ood_score, "the method's own"),
    }
    if (steepness := GradientNorm(method.energy)).exists(x):
        scores["gradient"] = steepness
    if isinstance(method, HasChain):
        scores["drop"] = EnergyDrop.of(method, drop_steps)
    if isinstance(method, Reconstructs) and method.can_infer:
        scores["reconstruction"] = ReconstructionError(method)
    elif isinstance(method, Denoises):
        scores["reconstruction"] = DenoisingGap(method, sigma)
    if isinstance(method, Classifies) and method.classes > 1:
        scores["confidence"] = Unconfidence(method)
    return scores
