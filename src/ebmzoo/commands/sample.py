"""`ebmzoo sample`: draw images from a checkpoint."""

from __future__ import annotations

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
    """Read the flags after `sample` and draw."""
    parser = ZooParser(prog="ebmzoo sample", description="Draw images from a checkpoint.")
    parser.add_function_arguments(sample, skip={"class_"})
    parser.add_argument("--class", type=str, default=None, help="samples of a class: its index or its name")
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
    """Draw images from a checkpoint; where asked, of a class, like an image, of a composition, or filling one in.

    Args:
        ckpt_path: a checkpoint that `ebmzoo fit` wrote; nothing else is needed.
        n: how many images.
        out: a .png for one grid, an .npz for an array `images` (n, H, W, C) uint8, or a folder for one PNG an image;
            points of the plane are plotted, or an array `points` (n, 2).
        steps: Langevin steps instead of the sampler's own; 0 is the generator alone, where the method has one.
        seed: the same seed gives the same images on the same kind of device.
        weights: ema for the averaged weights, raw for those being trained.
        batch_size: images in one chain.
        device: auto, cpu, cuda, cuda:1, …
        class_: samples of a class, its index or its name; the config's data is read, for the names of the classes or
            for the mean latent of the class's training images.
        like: an image file of the model's size; samples share its latent.
        compose: values of attributes, or classes, with commas between, such as star,red; samples are to have them all.
        guidance: how strongly samples of a class or a composition are guided to it, 0 for none; for a method that was
            trained with classes.
        inpaint: an image file of the model's size, of which the part that mask hides is filled in n times; a .png grid
            shows first the image, then what is left of it, then the n images, .npz and folder hold the n alone.
        mask: an image file as large as that of inpaint; hidden is what is not black, or, where some of it is
            transparent, what is not.
        trust: let the checkpoint's config name classes that are not ebmzoo's, which runs their code.
    """
    if n < 1:
        raise UserError(f"n is {n}; it must be 1 or more")
    if Path(out).suffix not in (".png", ".npz", ""):
        raise UserError(f"out is {out}; it must end in .png or .npz, or be a folder")
    given = Condition.asked(class_, like, compose, guidance, inpaint, mask)
    method = load(ckpt_path, trust)
    if not isinstance(method, Method):
        raise UserError(f"ckpt_path: {ckpt_path} holds a {type(method).__name__}, which has no samples")
    method = placed(method, weights, device)
    writable(Path(out).parent if Path(out).suffix else Path(out))
    torch.manual_seed(seed)
    if given is None and method.sample(1, steps=0).images[0].numel() == 2:
        points, made = draw_points(method, n, batch_size, steps)
        _save_points(points, Path(out))
    elif given is None:
        images, made = draw(method, n, batch_size, steps)
        _save(images, Path(out))
    else:
        data = partial(image_data, read(ckpt_path)[KEY]["config"], trust)
        images, made = given.draw(method, data, n, batch_size, steps)
        _save(images, Path(out), given.beside(method))
    chain = f"{made.steps} Langevin steps" + (f" at temperature {made.temperature:.3g}" if made.steps else "")
    what = f"{n} images" if given is None else f"{n} images {given}"
    print(f"{what}: {out} ({chain}, from {made.start}, NFE {made.nfe}, {weights} weights)")


def _save(images: torch.Tensor, out: Path, beside: Sequence[torch.Tensor] = ()) -> None:
    if out.suffix == ".npz":
        import numpy as np

        out.parent.mkdir(parents=True, exist_ok=True)
        np.savez(out, images=images.permute(0, 2, 3, 1).numpy())
    elif out.suffix == ".png":
        save_grid(to_float(torch.cat([*beside, images])), out)
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
        raise UserError(f"out is {out}; points of the plane go to a .png, or a .npz with an array `points` (n, 2)")
