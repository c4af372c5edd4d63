"""`ebmzoo restore`: restore degraded images with a checkpoint's model."""

from __future__ import annotations

import difflib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ebmzoo.commands.command_line import with_flag_values
from ebmzoo.commands.environment import placed, quietly, writable
from ebmzoo.commands.outputs import check_free, check_memory, distinct
from ebmzoo.commands.shared_models import PRETRAINED
from ebmzoo.data import FromFile, prepare, to_uint8
from ebmzoo.data.decode import Frame, decode
from ebmzoo.data.degradations import OPERATORS, Operator
from ebmzoo.data.image_files import entry, size_of
from ebmzoo.errors import UserError
from ebmzoo.methods import Method
from ebmzoo.methods.base.capabilities import RestorationSettings, Restores
from ebmzoo.metrics import fidelity
from ebmzoo.progress import forecasting, tracked
from ebmzoo.report.pictures import save_grid, save_png
from ebmzoo.tasks.restoration import RANGE, consistency
from ebmzoo.training.checkpoint import load
from ebmzoo.training.config import ZooParser
from ebmzoo.writing import check_local

NAME_BYTES = 400
"""The bytes that the name of a file takes in memory, on the safe side."""


def main(args: list[str]) -> None:
    """Restore images as the command line says."""
    parser = ZooParser(prog="ebmzoo restore", description="Restore degraded images with a checkpoint's model.")
    parser.add_argument("images", nargs="+", type=str, help="the image files to restore")
    parser.add_function_arguments(restore, skip={"images", "degrade"})
    parser.add_argument(
        "--degrade",
        action="store_true",
        help="the images are clean and of the model's size: degrade them first, and report the PSNR",
    )
    parser.add_argument("--pretrained", type=str, default=None, help=PRETRAINED)
    flags = vars(parser.instantiate(parser.parse_args(with_flag_values(args, positional=True)[1:])))
    flags.pop("pretrained")  # it is the checkpoint by now
    with quietly():
        restore(**flags)


def restore(
    ckpt_path: str,
    operator: str,
    images: list[str],
    out: str = "restored",
    degrade: bool = False,
    sigma: float | None = None,
    mask: str | None = None,
    n: int = 1,
    steps: int | None = None,
    restoring: RestorationSettings = RestorationSettings(),  # noqa: B008  (frozen)
    seed: int = 0,
    weights: Literal["ema", "raw"] = "ema",
    batch_size: int = 64,
    device: str = "auto",
    trust: bool = False,
    overwrite: bool = False,
) -> None:
    """Restore degraded images with a checkpoint's model.

    Args:
        ckpt_path: a checkpoint that `ebmzoo fit` wrote, the folder of a shared model, or its address hf:user/name;
            nothing else is needed.
        operator: the degradation of the images. sr4, sr8: downsampled by 4 or 8; color: converted to greyscale; blur:
            blurred by a Gaussian of one pixel; denoise: with Gaussian noise of standard deviation sigma; inpaint: with
            a part hidden by mask. All but sr4 and sr8 have the model's size.
        images: the image files to restore.
        out: the folder for the PNG files: for each image a comparison of the input with its restorations, and each
            restoration alone, at the model's size; with numbers in front if two of them had the same name.
        degrade: the images are clean and of the model's size: degrade them first, and report the PSNR.
        sigma: the standard deviation of the noise on the images, in units of [-1, 1], where 2/255 is one of 256 levels;
            none by default, required for denoise.
        mask: an image file of the model's size for inpaint; pixels that are not black are hidden or, if it has
            transparent pixels, those that are not transparent.
        n: the number of restorations of each image, from different random numbers.
        steps: the number of steps on images instead of the method's own.
        restoring: the other settings of the restoration.
        seed: the same seed, images in the same order, n, batch_size and other settings give the same restorations on
            the same kind of device; the images of a batch share one sequence of random numbers.
        weights: ema for the averaged weights, raw for the trained ones.
        batch_size: images restored at once.
        device: auto, cpu, cuda, cuda:1, …
        trust: allow the checkpoint's config to name classes from outside ebmzoo, whose code then runs.
        overwrite: replace files of the same names in out.
    """
    for key, value in {"n": n, "batch_size": batch_size}.items():
        if value < 1:
            raise UserError(f"{key} is {value}; it must be 1 or more")
    check_local(out, "out")
    check_memory(n * len(images), NAME_BYTES)
    chosen = operator_of(operator, sigma, mask)
    paths = [Path(path) for path in images]
    alone = [f"_{k}.png" for k in range(n)]
    names = distinct([path.stem for path in paths], [".png", *alone])
    check_free([Path(out) / f"{name}{ending}" for name in names for ending in (".png", *alone)], overwrite)
    restoring = restoring if steps is None else replace(restoring, steps=steps)
    method = load(ckpt_path, trust)
    if not isinstance(method, Method) or not isinstance(method, Restores) or not method.can_restore:
        raise UserError(f"ckpt_path: {ckpt_path} holds a {type(method).__name__} that does not restore images")
    method = placed(method, weights, device)
    if math.prod(method.image_shape) == 2:
        raise UserError(f"ckpt_path: {ckpt_path} holds a model of two-dimensional points, not of images")
    channels, size, _ = method.image_shape
    chosen.check(channels, size)
    torch.manual_seed(seed)
    clean: Tensor | None = None
    if degrade:
        clean = torch.cat([_read(path, (channels, size, size), "a clean image") for path in paths])
        y = chosen.degraded(clean)
    else:
        y = torch.cat([_read(path, chosen.measured(channels, size), f"one for {chosen.name}") for path in paths])
        # Onto the range of A: hidden pixels of an image, for one, carry no information.
        y = chosen(chosen.pinv(y))
    check_memory(n * len(images), 8 * math.prod(method.image_shape))
    writable(Path(out))
    with forecasting():
        restored = torch.split(_restored(method, chosen, y.repeat_interleave(n, 0), restoring, batch_size), n)
    for i, (path, name) in enumerate(zip(paths, names, strict=True)):
        seen = chosen.pinv(y[i : i + 1])
        row = [seen, restored[i]] if clean is None else [clean[i : i + 1], seen, restored[i]]
        save_grid(torch.cat(row).clamp(-1, 1), Path(out) / f"{name}.png", columns=n + len(row) - 1)
        for ending, image in zip(alone, restored[i], strict=True):
            save_png(to_uint8(image).expand(3, -1, -1), Path(out) / f"{name}{ending}")
        error = f"error of A x {consistency(restored[i], y[i : i + 1].expand(n, -1, -1, -1), chosen):.3g}"
        psnr = "" if clean is None else f"PSNR {_psnr(restored[i], clean[i])}, that of A⁺y {_psnr(seen, clean[i])}, "
        print(f"{path}: {Path(out) / f'{name}.png'} ({psnr}{error})")


def operator_of(name: str, sigma: float | None, mask: str | None) -> Operator:
    """The degradation operator of that name, with its noise and mask.

    Raises:
        UserError: There is no such operator, or a flag is missing or does not apply to it.
    """
    if name not in OPERATORS:
        near = difflib.get_close_matches(name, OPERATORS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"the operators are {', '.join(OPERATORS)}"
        raise UserError(f"operator: there is no '{name}'; {hint}")
    changes: dict[str, Any] = {}
    if (name == "inpaint") != (mask is not None):
        raise UserError("--mask and --operator inpaint go together: the mask is white where the image is hidden")
    if mask is not None:
        if (reason := FromFile(mask).available()) is not None:
            raise UserError(f"--mask: {reason}")
        changes["mask"] = FromFile(mask)
    if name == "denoise" and not sigma:
        raise UserError("--operator denoise needs --sigma, the standard deviation of the noise in units of [-1, 1]")
    if sigma is not None:
        changes["noise"] = sigma
    return replace(OPERATORS[name], **changes)  # type: ignore[type-var]


def _restored(
    method: Restores, operator: Operator, y: Tensor, restoring: RestorationSettings, batch_size: int
) -> Tensor:
    assert isinstance(method, Method)
    parts = []
    for batch in tracked(torch.split(y, batch_size), "restoring", unit="batch"):
        stages = method.restored(batch.to(method.device), operator, restoring)
        parts.append(stages[-1].states[-1].float().cpu())
    return torch.cat(parts)


def _read(path: Path, shape: tuple[int, int, int], what: str) -> Tensor:
    """An image file as `(1, C, H, W)` in [-1, 1] of exactly the shape (C, H, W), converted to greyscale if C is 1."""
    channels, height, width = shape
    size = size_of(path)
    if size != (width, height):
        raise UserError(f"{path} has {size[0]}×{size[1]} pixels, but {what} must have {width}×{height} for this model")
    _, pixels = decode([entry(path)], Frame(height, channels), max_gib=float("inf"))
    return prepare(pixels)


def _psnr(restored: Tensor, clean: Tensor) -> str:
    psnr = fidelity(restored, clean.expand(len(restored), -1, -1, -1), RANGE)["psnr"]
    return f"{float(psnr.double().mean()):.2f} dB"
