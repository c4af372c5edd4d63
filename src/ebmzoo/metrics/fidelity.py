"""How close images are to the ones they restore, pixel by pixel: MSE, PSNR and SSIM."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from ebmzoo.data.image_range import ImageRange
from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import UserError

UNIT = ImageRange(0.0, 1.0)


def mean_squared_error(made: Tensor, real: Tensor) -> Tensor:
    """|x̂ − x|²/CHW of each image, `(B,)`, for images in [-1, 1], to which x̂ is clamped first."""
    return (at_least_fp32(made).clamp(-1, 1) - real).square().flatten(1).mean(1)


def ssim_window(height: int, width: int) -> int:
    """The side of SSIM's Gaussian window: 11 pixels, or the largest odd number that fits into the image.

    Raises:
        UserError: an image has fewer than 3 pixels on a side.
    """
    side = min(height, width)
    if side < 3:
        raise UserError(f"SSIM needs images of 3 pixels or more on a side, these are {height}×{width}")
    return min(11, side - 1 + side % 2)


def fidelity(made: Tensor, real: Tensor, image_range: ImageRange) -> dict[str, Tensor]:
    """Per image, `(B,)` each: `mse`; `psnr` = 10 log₁₀(range²/MSE), in dB, ∞ without error; `ssim`, in [-1, 1].

    MSE is in the units of `image_range`. SSIM is Wang et al., 2004 (Eq. 13) with K₁ = 0.01 and K₂ = 0.03, which is
    defined for intensities that start at 0, so images are brought to [0, 1] first; the window is `ssim_window`, with
    σ = 1.5 at 11 pixels and in proportion below; borders are mirrored and the whole image is averaged, as torchmetrics
    does. PSNR and SSIM do not depend on `image_range`.

    Args:
        made: `(B, C, H, W)`, clamped to [-1, 1].
        real: `(B, C, H, W)` in [-1, 1].
        image_range: the units of the MSE.

    Raises:
        UserError: images too small for SSIM.
    """
    if made.shape != real.shape:
        raise UserError(f"images of shape {tuple(made.shape)} and {tuple(real.shape)} cannot be compared")
    radius = (ssim_window(*real.shape[-2:]) - 1) // 2
    # On the CPU and without autocast: SSIM's variances are small differences, which TF32 and bf16 round away.
    with torch.autocast("cpu", enabled=False):
        x = UNIT.inward(at_least_fp32(real).cpu())
        y = UNIT.inward(at_least_fp32(made).cpu().clamp(-1, 1))
        mse = (y - x).square().flatten(1).mean(1) * (image_range.high - image_range.low) ** 2
        psnr = peak_signal_noise_ratio(y, x, data_range=1.0, dim=(1, 2, 3), reduction="none")
        # torchmetrics takes the window from σ: 2⌊3.5σ + ½⌋ + 1 pixels.
        ssim = structural_similarity_index_measure(y, x, data_range=1.0, sigma=0.3 * radius, reduction="none")
    return {"mse": mse, "psnr": psnr, "ssim": cast(Tensor, ssim)}
