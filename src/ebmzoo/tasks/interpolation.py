"""Whether images change evenly along a path between two latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData, prepare
from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import Generates, Reconstructs, StartsFromGenerator
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics import FeatureExtractor, mean_squared_error
from ebmzoo.report.pictures import save_strips
from ebmzoo.sampling.langevin import ChainDivergedError
from ebmzoo.tasks.base import Result, Task
from ebmzoo.tasks.generation import chain_protocol

Kind = Literal["linear", "spherical"]


class Interpolation(Task):
    """Strips of images G(z̄), z̄ = (1 − α) z₁ + α z₂, between random latents, and between those of test images.

    Figures: `path_ratio`, the mean of `path_ratio` over strips, 1 for an even path; `real/end_mse`, the MSE in [-1, 1]
    of a strip's two ends against the test images x₁, x₂ between whose latents μ(x₁), μ(x₂) it runs; `nfe`, network
    evaluations an image. In the picture a strip is a row, and x₁ and x₂ are the first and the last of theirs.
    Source: Dual-MCMC, §5.4 and Fig. 4.

    Args:
        pairs: how many strips of each kind; the test images are the set's first 2·pairs, in their order.
        points: how many images from z₁ to z₂, both ends included.
        kind: linear, the paper's, or spherical (`interpolate`).
        steps: by how many Langevin steps on the energy each image is revised, for a method whose chains start from a
            generator: None is its own number, 0 shows the generator's images.
    """

    name = "interpolation"

    def __init__(self, pairs: int = 4, points: int = 9, kind: Kind = "linear", steps: int | None = 0) -> None:
        if pairs < 1:
            raise UserError(f"interpolation.pairs is {pairs}; it must be 1 or more")
        if points < 3:
            raise UserError(f"interpolation.points is {points}; it must be 3 or more, two ends and one between")
        if kind not in ("linear", "spherical"):
            raise UserError(f"interpolation.kind is {kind}; it must be linear or spherical")
        if steps is not None and steps < 0:
            raise UserError(f"interpolation.steps is {steps}; it must be 0 or more, or null for the method's own")
        self.pairs, self.points, self.kind, self.steps = pairs, points, kind, steps

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        return cls()

    def can_ask(self, method: Method) -> bool:
        return isinstance(method, Generates)

    def __call__(self, method: Method, data: ImageData, folder: Path | None = None) -> Result:
        assert isinstance(method, Generates)
        result = Result(self.name)
        result.protocol = {"pairs": self.pairs, "points": self.points, "kind": self.kind}
        z1, z2 = torch.randn(2, self.pairs, method.latent, device=method.device)
        self._ask("latent", method, z1, z2, None, result, folder)
        if isinstance(method, Reconstructs) and method.can_infer:
            images = data.test_set.images[: 2 * self.pairs]
            x = prepare(images[: len(images) // 2 * 2].to(method.device))
            result.protocol |= {"images": len(x), "data": data.test_set.name, "image_range": [-1.0, 1.0]}
            with method.evaluating():
                z = at_least_fp32(method.infer(x))
            self._ask("real", method, z[0::2], z[1::2], x.unflatten(0, (-1, 2)), result, folder)
        return result

    def _ask(
        self,
        kind: str,
        method: Method,
        z1: Tensor,
        z2: Tensor,
        real: Tensor | None,
        result: Result,
        folder: Path | None,
    ) -> None:
        """The figures and the picture of one kind of strips; `real` are the images at their ends `(pairs, 2, …)`."""
        assert isinstance(method, Generates)
        try:
            decode = method.decode if real is None else method.decode_inferred
            strips, steps = draw_strips(method, z1, z2, self.points, self.kind, self.steps, decode)
            chain = chain_protocol(method.sample(1, steps=steps))  # for what it tells of the chain
        except ChainDivergedError as error:
            result.notes.append(f"{kind}: {error}")
            result.figures[f"{kind}/path_ratio"] = math.nan
            return
        result.figures[f"{kind}/path_ratio"] = sum(map(path_ratio, strips)) / len(strips)
        if real is not None:
            ends = strips[:, [0, -1]]
            result.figures[f"{kind}/end_mse"] = float(mean_squared_error(ends.flatten(0, 1), real.flatten(0, 1)).mean())
            strips = torch.cat([real[:, :1], strips, real[:, 1:]], dim=1)
        result.figures[f"{kind}/nfe"] = (1 if real is None else 2) + steps
        result.protocol["chains"] = {"full": chain}
        if folder is not None:
            path = folder / f"interpolation_{kind}.png"
            save_strips(strips.float(), path)
            result.pictures.append(str(path))


def interpolate(z1: Tensor, z2: Tensor, points: int, kind: Kind = "linear") -> Tensor:
    """The latents `(B, points, D)` from `z1` to `z2`, `(B, D)`, at α = 0, …, 1 in equal steps; the ends are exact.

    Linear: z̄ = (1 − α) z₁ + α z₂. Spherical: z̄ = [sin((1 − α) ω) z₁ + sin(α ω) z₂] / sin ω, with ω the angle between
    them (Shoemake, 1985), which keeps the norm that z ~ N(0, I) has; linear where they are parallel.
    """
    alpha = torch.linspace(0, 1, points, device=z1.device, dtype=z1.dtype)[None, :, None]
    first, second = 1 - alpha, alpha
    if kind == "spherical":
        cos = torch.nn.functional.cosine_similarity(z1, z2, dim=1).clamp(-1, 1)[:, None, None]
        omega = cos.acos()
        parallel = omega.sin() < 1e-4
        divisor = torch.where(parallel, 1.0, omega.sin())
        first = torch.where(parallel, first, (first * omega).sin() / divisor)
        second = torch.where(parallel, second, (second * omega).sin() / divisor)
    return first * z1[:, None] + second * z2[:, None]


def draw_strips(
    method: Method,
    z1: Tensor,
    z2: Tensor,
    points: int,
    kind: Kind = "linear",
    steps: int | None = 0,
    decode: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, int]:
    """The images `(B, points, C, H, W)` from `z1` to `z2`, `(B, latent)`, and by how many steps each was revised.

    `decode` is the method's own unless given.

    Raises:
        ChainDivergedError: the chain that revises them diverged.
    """
    assert isinstance(method, Generates)
    strips, taken = [], 0
    with method.evaluating():
        for z in interpolate(z1, z2, points, kind):
            images = at_least_fp32((decode or method.decode)(z))
            if isinstance(method, StartsFromGenerator) and steps != 0:
                states = list(method.revise(images, steps=steps))
                images, taken = states[-1], len(states) - 1
            strips.append(images)
    return torch.stack(strips), taken


def path_ratio(strip: Tensor) -> float:
    """max |xᵢ₊₁ − xᵢ| / mean |xᵢ₊₁ − xᵢ| of a strip `(points, C, H, W)`, Euclidean: the longest step over the mean one.

    1 when all steps are equally long, points − 1 when all the change is in one; NaN when nothing changes.
    """
    lengths = strip.diff(dim=0).flatten(1).norm(dim=1)
    return float(lengths.max() / lengths.mean())
