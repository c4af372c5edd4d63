"""How well the model denoises test images with Gaussian noise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData, prepare
from ebmzoo.data.image_range import ImageRange
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import Denoises
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics import FeatureExtractor, fidelity, ssim_window
from ebmzoo.progress import tracked
from ebmzoo.report.pictures import numbered, save_strips
from ebmzoo.tasks.base import Result, Task
from ebmzoo.tasks.budget import Budget


class Denoising(Task):
    """MSE, PSNR and SSIM against the test image x, for x̃ = x + σε and for the denoised r(x̃, σ), as means over images.

    One row per σ: `mse_noisy`, `psnr_noisy`, `ssim_noisy` for x̃; `mse`, `psnr`, `ssim` for r(x̃, σ); `gain`, the mean
    of PSNR(r) − PSNR(x̃) in dB, 0 for an image where both are infinite. Both are clamped to [-1, 1] before they are
    measured; the model gets x̃ unclamped. ε ~ N(0, I) is the same for all σ. An image that is restored without error
    has infinite PSNR, and so has the mean: a note counts such images. In the picture the rows are x, and x̃ and r(x̃,
    σ) for each σ.
    Source: Denoising-EBM, §4.1, whose energy is the error of r.

    Args:
        sigmas: The noise levels σ, in units of [-1, 1].
        n: The largest number of test images, in the order of the set.
        image_range: The units of the MSE; in [-1, 1], the default and the papers' choice, it is 4 times that in [0, 1].
        batch_size: Images per evaluation.
        shown: Images in the picture, at most `batch_size`.

    Raises:
        UserError: A number is out of range.
    """

    name = "denoising"

    def __init__(
        self,
        sigmas: tuple[float, ...] = (0.05, 0.1, 0.3, 0.5, 1.0),
        n: int = 1000,
        image_range: tuple[float, float] = (-1.0, 1.0),
        batch_size: int = 250,
        shown: int = 8,
    ) -> None:
        for key, value in {"n": n, "batch_size": batch_size, "shown": shown}.items():
            if value < 1:
                raise UserError(f"denoising.{key} is {value}; it must be 1 or more")
        usable = all(sigma > 0 and math.isfinite(sigma) for sigma in sigmas)
        if not sigmas or not usable or len({_row(sigma) for sigma in sigmas}) < len(sigmas):
            raise UserError(f"denoising.sigmas is {list(sigmas)}; it must be different finite numbers above 0")
        self.sigmas = sigmas
        self.n = n
        self.range = ImageRange(*image_range)
        self.batch_size = batch_size
        self.shown = shown

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        return cls()

    def apply_budget(self, budget: Budget) -> None:
        self.n = budget.images_of(self.n)

    def supports(self, method: Method) -> bool:
        return isinstance(method, Denoises)

    def __call__(self, method: Method, data: ImageData, folder: Path | None = None) -> Result:
        assert isinstance(method, Denoises)
        images = data.test_set.images[: self.n]
        result = Result(self.name)
        result.protocol = {
            "images": len(images),
            "data": data.test_set.name,
            "image_range": [self.range.low, self.range.high],
            "ssim_window": ssim_window(*images.shape[-2:]),
        }
        found: dict[float, list[dict[str, Tensor]]] = {sigma: [] for sigma in self.sigmas}
        strips: list[Tensor] = []
        with method.evaluating():
            for batch in tracked(torch.split(images, self.batch_size), "images", unit="batch"):
                x = prepare(batch.to(method.device))
                eps = torch.randn(batch.shape).to(x)  # drawn on the CPU: the same on every device
                shown = [x]
                for sigma in self.sigmas:
                    noisy = x + sigma * eps
                    denoised = method.denoise(noisy, sigma)
                    found[sigma].append(self._measure(noisy, denoised, x))
                    shown += [noisy, denoised]
                strips = strips or [y[: self.shown].float().cpu() for y in shown]
        for sigma, parts in found.items():
            values = {metric: torch.cat([part[metric] for part in parts]).double() for metric in parts[0]}
            result.figures |= {f"{_row(sigma)}/{metric}": float(value.mean()) for metric, value in values.items()}
            if exact := int(values["psnr"].isposinf().sum()):
                result.notes.append(
                    f"{_row(sigma)}: {exact} of {len(images)} images are restored without error, at ∞ dB"
                )
        if folder is not None:
            rows = ["x", *(f"{kind}, σ = {sigma:g}" for sigma in self.sigmas for kind in ("noisy", "denoised"))]
            columns = numbered("image", len(strips[0]))
            save_strips(torch.stack(strips), path := folder / "denoising.png", rows, columns)
            result.pictures.append(str(path))
        return result

    def _measure(self, noisy: Tensor, denoised: Tensor, x: Tensor) -> dict[str, Tensor]:
        """The figures of each image, `(B,)`."""
        before, after = fidelity(noisy, x, self.range), fidelity(denoised, x, self.range)
        gain = torch.where(after["psnr"] == before["psnr"], 0.0, after["psnr"] - before["psnr"])
        return {f"{metric}_noisy": value for metric, value in before.items()} | after | {"gain": gain}


def _row(sigma: float) -> str:
    return f"sigma={sigma:g}"
