"""`ebmzoo sample`: draw images from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from ebmzoo.commands.conditions import Condition, image_data
from ebmzoo.commands.environment import placed, quietly, writable
from ebmzoo.data.images import to_float
from ebmzoo.errors import UserError
from ebmzoo.methods import Method
from ebmzoo.report.pictures import save_grid, save_png, scatter
from ebmzoo.tasks.density import draw_points
from ebmzoo.tasks.generation import draw
from ebmzoo.training.checkpoint import load, read
from ebmzoo.training.config import ZooParser
from ebmzoo.training.migration import KEY


def main(args: list[str]) -> None:
    """Draw images as the command line says."""
    parser = ZooParser(prog="ebmzoo sample", description="Draw images from a checkpoint.")
    parser.add_function_arguments(sample, skip={"class_"})
    parser.add_argument("--class", type=str, default=None, help="the class to sample: its index or its name")
    flags = parser.parse_args(args[1:]).as_dict()
    with quietly():
        sample(class_=flags.pop("class"), **flags)


def sample(
    ckpt_path: str,
    n: int = 64,
    out: str = "samples.png",
    steps: int | None = None,
    seed: int = 0,
    weights: Literal["ema", "raw"] = "ema",
    batch_size: int = 250,
    device: str = "auto",
    class_: str | None = None,
    like: str | None = None,
    compose: str | None = None,
    guidance: float | None = None,
    inpaint: str | None = None,
    mask: str | None = None,
    trust: bool = False,
) -> None:
    """Draw images from a checkpoint, unconditionally or of a class, like an image, of a composition, or inpainted.

    Args:
        ckpt_path: a checkpoint that `ebmzoo fit` wrote; nothing else is needed.
        n: the number of images.
        out: a .png for one grid, a .npz for an array `images` (n, H, W, C) uint8, or a folder for one PNG per image;
            two-dimensional points go to a .png as a plot or to a .npz as an array `points` (n, 2).
        steps: the number of Langevin steps instead of the sampler's own; 0 is the generator alone, if there is one.
        seed: the same seed gives the same images on the same kind of device.
        weights: ema for the averaged weights, raw for the trained ones.
        batch_size: images sampled at once.
        device: auto, cpu, cuda, cuda:1, …
        class_: the class to sample, its index or its name; the config's data is loaded, for the names of the classes or
            for the mean latent of the class's training images.
        like: an image file of the model's size; the samples share its latent.
        compose: attribute values or classes separated by commas, such as star,red, which the samples combine.
        guidance: the guidance strength of class or compose, 0 for none; for a method that was trained with classes.
        inpaint: an image file of the model's size, whose part hidden by mask is inpainted n times; a .png grid shows
            the image and its visible part first.
        mask: an image file of the same size as that of inpaint; pixels that are not black are hidden or, if it has
            transparent pixels, those that are not transparent.
        trust: allow the checkpoint's config to name classes from outside ebmzoo, whose code then runs.
    """
    if n < 1:
        raise UserError(f"n is {n}; it must be 1 or more")
    if Path(out).suffix not in (".png", ".npz", ""):
        raise UserError(f"out is {out}; it must end in .png or .npz, or be a folder")
    condition = Condition.from_flags(class_, like, compose, guidance, inpaint, mask)
    method = load(ckpt_path, trust)
    if not isinstance(method, Method):
        raise UserError(f"ckpt_path: {ckpt_path} holds a {type(method).__name__}, which does not sample images")
    method = placed(method, weights, device)
    writable(Path(out).parent if Path(out).suffix else Path(out))
    torch.manual_seed(seed)
    if condition is None and math.prod(method.image_shape) == 2:
        points, made = draw_points(method, n, batch_size, steps)
        _save_points(points, Path(out))
    elif condition is None:
        images, made = draw(method, n, batch_size, steps)
        _save(images, Path(out))
    else:
        data = partial(image_data, read(ckpt_path)[KEY]["config"], trust)
        images, made = condition.draw(method, data, n, batch_size, steps)
        _save(images, Path(out), condition.references(method))
    chain = f"{made.steps} Langevin steps" + (f" at temperature {made.temperature:.3g}" if made.steps else "")
    what = f"{n} images" if condition is None else f"{n} images {condition}"
    print(f"{what}: {out} ({chain}, from {made.start}, NFE {made.nfe}, {weights} weights)")


def _save(images: torch.Tensor, out: Path, references: Sequence[torch.Tensor] = ()) -> None:
    if out.suffix == ".npz":
        import numpy as np

        out.parent.mkdir(parents=True, exist_ok=True)
        np.savez(out, images=images.permute(0, 2, 3, 1).numpy())
    elif out.suffix == ".png":
        save_grid(to_float(torch.cat([*references, images])), out)
    else:
        for i, image in enumerate(images):
            save_png(image.expand(3, -1, -1), out / f"{i:06d}.png")


def _save_points(points: torch.Tensor, out: Path) -> None:
    if out.suffix == ".npz":
        import numpy as np

        out.parent.mkdir(parents=True, exist_ok=True)
        np.savez(out, points=points.numpy())
    elif out.suffix == ".png":
        save_png(scatter(points, 1.25 * float(points.abs().max())), out)
    else:
        raise UserError(f"out is {out}; two-dimensional points are written to a .png or a .npz")
