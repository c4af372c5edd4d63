"""Fidelity of restored images to the originals: MSE, PSNR and SSIM."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from ebmzoo.data.image_range import ImageRange
from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import UserError

UNIT = ImageRange(0.0, 1.0)


def mean_squared_error(restored: Tensor, real: Tensor) -> Tensor:
    """Return |x̂ − x|²/CHW of each image, `(B,)`, in units of [-1, 1]; x̂ is first clamped to [-1, 1].

    >>> mean_squared_error(torch.full((1, 3, 4, 4), 0.5), torch.zeros(1, 3, 4, 4))
    tensor([0.2500])

    Args:
        restored: Restored images x̂, `(B, C, H, W)`.
        real: Original images x, `(B, C, H, W)` in [-1, 1].
    """
    return (at_least_fp32(restored).clamp(-1, 1) - real).square().flatten(1).mean(1)


def ssim_window(height: int, width: int) -> int:
    """Return the side of SSIM's Gaussian window: 11 pixels, or the largest odd number that fits into the image.

    >>> ssim_window(32, 32), ssim_window(8, 28)
    (11, 7)

    Args:
        height: Height of the images in pixels.
        width: Width of the images in pixels.

    Raises:
        UserError: If a side has fewer than 3 pixels.
    """
    side = min(height, width)
    if side < 3:
        raise UserError(f"SSIM needs images of at least 3×3 pixels, but these are {height}×{width}")
    return min(11, side - 1 + side % 2)


def fidelity(restored: Tensor, real: Tensor, image_range: ImageRange) -> dict[str, Tensor]:
    """Return `mse`, `psnr` = 10 log₁₀(range²/MSE) in dB (∞ without error) and `ssim` in [-1, 1], `(B,)` each.

    MSE is in units of `image_range`; PSNR and SSIM do not depend on it. SSIM is that of Wang et al., 2004 (Eq. 13),
    with K₁ = 0.01 and K₂ = 0.03. It is defined for intensities that start at 0, so images are mapped to [0, 1] first.
    The window is `ssim_window`, with σ = 1.5 for 11 pixels and proportionally less for fewer. Borders are mirrored and
    the whole image is averaged, as in torchmetrics.

    >>> x = torch.zeros(1, 1, 8, 8)
    >>> psnr = fidelity(x + 0.2, x, ImageRange(0.0, 1.0))["psnr"]
    >>> round(float(psnr), 3)  # 10 log₁₀(1²/0.1²) dB
    20.0

    Args:
        restored: Restored images, `(B, C, H, W)`; clamped to [-1, 1].
        real: Original images, `(B, C, H, W)` in [-1, 1].
        image_range: The range whose units the MSE is in.

    Raises:
        UserError: If shapes differ, or images are too small for SSIM.
    """
    if restored.shape != real.shape:
        raise UserError(f"images of shape {tuple(restored.shape)} and {tuple(real.shape)} cannot be compared")
    radius = (ssim_window(*real.shape[-2:]) - 1) // 2
    # On the CPU and without autocast: SSIM's variances are small differences, which TF32 and bf16 round away.
    with torch.autocast("cpu", enabled=False):
        x = UNIT.inward(at_least_fp32(real).cpu())
        y = UNIT.inward(at_least_fp32(restored).cpu().clamp(-1, 1))
        mse = (y - x).square().flatten(1).mean(1) * (image_range.high - image_range.low) ** 2
        psnr = peak_signal_noise_ratio(y, x, data_range=1.0, dim=(1, 2, 3), reduction="none")
        # torchmetrics takes the window from σ: 2⌊3.5σ + ½⌋ + 1 pixels.
        ssim = structural_similarity_index_measure(y, x, data_range=1.0, sigma=0.3 * radius, reduction="none")
    return {"mse": mse, "psnr": psnr, "ssim": cast(Tensor, ssim)}
