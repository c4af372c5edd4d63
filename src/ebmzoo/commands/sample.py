"""`ebmzoo sample`: draw images from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from ebmzoo.commands.command_line import with_flag_values
from ebmzoo.commands.conditions import Condition
from ebmzoo.commands.config_data import data_of_run
from ebmzoo.commands.environment import placed, quietly, writable
from ebmzoo.commands.outputs import check_alone, check_free, check_memory, is_folder, remove_set
from ebmzoo.commands.shared_models import PRETRAINED
from ebmzoo.data.images import to_float
from ebmzoo.errors import UserError
from ebmzoo.methods import Method
from ebmzoo.methods.base.capabilities import EvaluatesAsPaper, Evaluation
from ebmzoo.progress import forecasting
from ebmzoo.report.pictures import LEAST, save_grid, save_png, scatter
from ebmzoo.tasks.density import draw_points
from ebmzoo.tasks.generation import draw
from ebmzoo.training.checkpoint import load, read
from ebmzoo.training.config import ZooParser
from ebmzoo.training.migration import KEY
from ebmzoo.writing import check_local, write_whole


def main(args: list[str]) -> None:
    """Draw images as the command line says."""
    parser = ZooParser(prog="ebmzoo sample", description="Draw images from a checkpoint.")
    parser.add_function_arguments(sample, skip={"class_"})
    parser.add_argument("--class", type=str, default=None, help="the class to sample: its index or its name")
    parser.add_argument("--pretrained", type=str, default=None, help=PRETRAINED)
    flags = parser.parse_args(with_flag_values(args)[1:]).as_dict()
    flags.pop("pretrained")  # it is the checkpoint by now
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
    overwrite: bool = False,
    evaluation: Evaluation | None = None,
) -> None:
    """Draw images from a checkpoint, unconditionally or of a class, like an image, of a composition, or inpainted.

    Args:
        ckpt_path: a checkpoint that `ebmzoo fit` wrote, the folder of a shared model, or its address hf:user/name;
            nothing else is needed.
        n: the number of images.
        out: a .png for one grid, a .npz for an array `images` (n, H, W, C) uint8, or an empty folder for one PNG per
            image; two-dimensional points go to a .png as a plot or to a .npz as an array `points` (n, 2).
        steps: the number of Langevin steps instead of the sampler's own; 0 is the generator alone, if there is one.
        seed: the same seed, n, batch_size and other settings give the same images on the same kind of device; another n
            or batch_size gives other images, since the chains of a batch share one sequence of random numbers.
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
        overwrite: replace the file out or, in a folder, the images of an earlier sample.
        evaluation: paper to draw as the authors' code evaluates, library as for all methods; by default as the
            checkpoint's config says.
    """
    if n < 1:
        raise UserError(f"n is {n}; it must be 1 or more")
    check_local(out, "out")
    target, in_folder = Path(out), is_folder(out)
    if in_folder:
        check_alone(target, overwrite)
    else:
        check_free([target], overwrite)
    condition = Condition.from_flags(class_, like, compose, guidance, inpaint, mask)
    method = load(ckpt_path, trust)
    if not isinstance(method, Method):
        raise UserError(f"ckpt_path: {ckpt_path} holds a {type(method).__name__}, which does not sample images")
    if evaluation is not None:
        if not isinstance(method, EvaluatesAsPaper):
            raise UserError(f"evaluation: a {type(method).__name__} draws in one way only; leave --evaluation out")
        method.evaluation = evaluation
    method = placed(method, weights, device)
    on_plane = condition is None and math.prod(method.image_shape) == 2
    if on_plane and in_folder:
        raise UserError(f"out is {out}; two-dimensional points are written to a .png or a .npz")
    check_memory(n, _bytes_of_one(method, target.suffix.lower() == ".png"))
    writable(target if in_folder else target.parent)
    torch.manual_seed(seed)
    with forecasting():
        if on_plane:
            points, made = draw_points(method, n, batch_size, steps)
            _save_points(points, target)
        elif condition is None:
            images, made = draw(method, n, batch_size, steps)
            _save(images, target, in_folder)
        else:
            data = partial(data_of_run, read(ckpt_path)[KEY], method, trust)
            images, made = condition.draw(method, data, n, batch_size, steps)
            _save(images, target, in_folder, condition.references(method))
    chain = f"{made.steps} Langevin steps" + (f" at temperature {made.temperature:.3g}" if made.steps else "")
    what = f"{n} images" if condition is None else f"{n} images {condition}"
    print(f"{what}: {out} ({chain}, from {made.start}, NFE {made.nfe}, {weights} weights)")


def _bytes_of_one(method: Method, in_grid: bool) -> int:
    """The bytes that an image takes until it is written: as uint8 alone, or in a grid as floats and pixels too."""
    numbers = math.prod(method.image_shape)
    return numbers * 5 + 3 * max(LEAST, method.image_shape[-1]) ** 2 if in_grid else numbers


def _save(images: torch.Tensor, out: Path, in_folder: bool, references: Sequence[torch.Tensor] = ()) -> None:
    if in_folder:
        remove_set(out)
        for i, image in enumerate(images):
            save_png(image.expand(3, -1, -1), out / f"{i:06d}.png")
    elif out.suffix.lower() == ".npz":
        _save_array(out, images=images.permute(0, 2, 3, 1))
    else:
        save_grid(to_float(torch.cat([*references, images])), out)


def _save_points(points: torch.Tensor, out: Path) -> None:
    if out.suffix.lower() == ".npz":
        _save_array(out, points=points)
    else:
        save_png(scatter(points, 1.25 * float(points.abs().max())), out)


def _save_array(out: Path, **arrays: torch.Tensor) -> None:
    import numpy as np

    content = {name: array.numpy() for name, array in arrays.items()}
    write_whole(out, lambda file: np.savez(file, **content))  # type: ignore[arg-type]
