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
from ebmzoo.report.pictures import numbered, save_strips
from ebmzoo.sampling.langevin import ChainDivergedError
from ebmzoo.tasks.base import Result, Task
from ebmzoo.tasks.generation import chain_protocol

Kind = Literal["linear", "spherical"]


class Interpolation(Task):
    """Strips of images G(z̄), z̄ = (1 − α) z₁ + α z₂, between random latents, and between those of test images.

    Figures: `path_ratio`, the mean of `path_ratio` over strips, 1 for an even path; `real/end_mse`, the MSE in [-1, 1]
    of the two ends of a strip against the test images x₁, x₂ whose latents μ(x₁), μ(x₂) it connects; `nfe`, network
    evaluations per image. In the picture each row is a strip, with x₁ and x₂ at its ends if there are such images.
    Source: Dual-MCMC, §5.4 and Fig. 4.

    Args:
        pairs: Strips of each kind; the test images are the first 2·pairs of the set, in order.
        points: Images from z₁ to z₂, both ends included, 3 or more.
        kind: `linear`, as in the paper, or `spherical`; see `interpolate`.
        steps: Langevin steps on the energy that revise each image, for a method whose chains start from a generator;
            None uses the method's own number, and 0 shows the generator's images.

    Raises:
        UserError: A number is out of range.
    """

    name = "interpolation"

    def __init__(self, pairs: int = 4, points: int = 9, kind: Kind = "linear", steps: int | None = 0) -> None:
        if pairs < 1:
            raise UserError(f"interpolation.pairs is {pairs}; it must be 1 or more")
        if points < 3:
            raise UserError(f"interpolation.points is {points}; it must be 3 or more, two ends and a point between")
        if kind not in ("linear", "spherical"):
            raise UserError(f"interpolation.kind is {kind}; it must be linear or spherical")
        if steps is not None and steps < 0:
            raise UserError(f"interpolation.steps is {steps}; it must be 0 or more, or null for the sampler's own")
        self.pairs = pairs
        self.points = points
        self.kind = kind
        self.steps = steps

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        return cls()

    def supports(self, method: Method) -> bool:
        return isinstance(method, Generates)

    def __call__(self, method: Method, data: ImageData, folder: Path | None = None) -> Result:
        assert isinstance(method, Generates)
        result = Result(self.name)
        result.protocol = {"pairs": self.pairs, "points": self.points, "kind": self.kind}
        z1, z2 = torch.randn(2, self.pairs, method.latent, device=method.device)
        self._interpolate("latent", method, z1, z2, None, result, folder)
        if isinstance(method, Reconstructs) and method.can_infer:
            images = data.test_set.images[: 2 * self.pairs]
            x = prepare(images[: len(images) // 2 * 2].to(method.device))
            result.protocol |= {"images": len(x), "data": data.test_set.name, "image_range": [-1.0, 1.0]}
            with method.evaluating():
                z = at_least_fp32(method.infer(x))
            self._interpolate("real", method, z[0::2], z[1::2], x.unflatten(0, (-1, 2)), result, folder)
        return result

    def _interpolate(
        self,
        kind: str,
        method: Method,
        z1: Tensor,
        z2: Tensor,
        real: Tensor | None,
        result: Result,
        folder: Path | None,
    ) -> None:
        """Compute the figures and draw the picture of one kind of strips with `real` end images `(pairs, 2, …)`."""
        assert isinstance(method, Generates)
        try:
            decode = method.decode if real is None else method.decode_inferred
            strips, steps = draw_strips(method, z1, z2, self.points, self.kind, self.steps, decode)
            chain = chain_protocol(method.chain_info(steps))
        except ChainDivergedError as error:
            result.notes.append(f"{kind}: {error}")
            result.figures[f"{kind}/path_ratio"] = math.nan
            return
        result.figures[f"{kind}/path_ratio"] = sum(map(path_ratio, strips)) / len(strips)
        columns = [f"α = {k / (self.points - 1):.3g}" for k in range(self.points)]
        if real is not None:
            ends = strips[:, [0, -1]]
            result.figures[f"{kind}/end_mse"] = float(mean_squared_error(ends.flatten(0, 1), real.flatten(0, 1)).mean())
            strips, columns = torch.cat([real[:, :1], strips, real[:, 1:]], dim=1), ["x₁", *columns, "x₂"]
        result.figures[f"{kind}/nfe"] = (1 if real is None else 2) + steps
        result.protocol["chains"] = {"full": chain}
        if folder is not None:
            path = folder / f"interpolation_{kind}.png"
            save_strips(strips.float(), path, numbered("pair", len(strips)), columns)
            result.pictures.append(str(path))


def interpolate(z1: Tensor, z2: Tensor, points: int, kind: Kind = "linear") -> Tensor:
    """The latents `(B, points, D)` from `z1` to `z2`, `(B, D)`, at α = 0, …, 1 in equal steps; the ends are exact.

    Linear: z̄ = (1 − α) z₁ + α z₂. Spherical: z̄ = [sin((1 − α) ω) z₁ + sin(α ω) z₂] / sin ω, with ω the angle between
    them (Shoemake, 1985), which preserves the norm of z ~ N(0, I); parallel latents are interpolated linearly.
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
    """The images `(B, points, C, H, W)` from `z1` to `z2`, `(B, latent)`, and the Langevin steps that revised each.

    `decode` is the method's own if None.

    Raises:
        ChainDivergedError: The chain that revises the images diverged.
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
    """max |xᵢ₊₁ − xᵢ| / mean |xᵢ₊₁ − xᵢ| of a strip `(points, C, H, W)`, Euclidean: longest over mean step length.

    It is 1 if all steps are equally long, points − 1 if one step contains all the change, and NaN if nothing changes.
    """
    lengths = strip.diff(dim=0).flatten(1).norm(dim=1)
    return float(lengths.max() / lengths.mean())
