"""`ebmzoo animate`: a GIF of a run's training, or of the chains that its samples go through."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor

from ebmzoo.commands.command_line import with_flag_values
from ebmzoo.commands.config_data import config_data
from ebmzoo.commands.environment import placed, quietly
from ebmzoo.commands.outputs import check_free
from ebmzoo.commands.shared_models import PRETRAINED
from ebmzoo.commands.watching import watched
from ebmzoo.data.plane import PlaneData
from ebmzoo.errors import UserError
from ebmzoo.methods import Method
from ebmzoo.methods.base.capabilities import HasChain, HasLevels, RunsChain, SamplesInStages
from ebmzoo.progress import forecasting, tracked
from ebmzoo.reading import check_regular
from ebmzoo.report.animation import captioned, plane_picture, save_gif
from ebmzoo.report.pictures import grid
from ebmzoo.tasks.density import cell_masses, noise_levels
from ebmzoo.training.checkpoint import LAST, load, read
from ebmzoo.training.config import ZooParser
from ebmzoo.training.migration import KEY
from ebmzoo.writing import check_local

T = TypeVar("T")
CELLS = 100
"""Cells on either axis of a density."""


class State(NamedTuple):
    """A state of the chains: its caption, the images `(n, C, H, W)` in [-1, 1], and the level whose energy they see."""

    caption: str
    images: Tensor
    level: int = 0


def main(args: list[str]) -> None:
    """Write the animation that the command line asks for."""
    if len(args) > 1 and not args[1].startswith("-"):
        args = [args[0], "--run", *args[1:]]
    parser = ZooParser(prog="ebmzoo animate", description="Write a GIF of a run's training, or of its chains.")
    parser.add_function_arguments(animate)
    parser.add_argument("--pretrained", type=str, default=None, help=PRETRAINED.replace("ckpt_path", "run"))
    args = ["--run" if word == "--ckpt_path" else word for word in args]  # which --pretrained is by now
    flags = parser.parse_args(with_flag_values(args)[1:]).as_dict()
    flags.pop("pretrained")
    with quietly():
        animate(**flags)


def animate(
    run: str,
    what: Literal["sampling", "training"] = "sampling",
    out: str = "animation.gif",
    n: int | None = None,
    frames: int = 60,
    fps: float = 12.0,
    seed: int = 0,
    weights: Literal["ema", "raw"] = "ema",
    device: str = "auto",
    trust: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a GIF of a run's training, or of the chains that its samples go through.

    Args:
        run: the folder of a run, or one of its checkpoints.
        what: sampling for the states of the chains from their start; training for the grids of samples that the run
            has drawn, `samples/step_*.png`.
        out: the file, a .gif.
        n: the number of chains, 64 by default; on the plane 1,000, drawn on the model's density.
        frames: the largest number of frames; a longer chain is shown at as many of its states.
        fps: frames a second.
        seed: of the chains.
        weights: ema for the averaged weights, raw for the trained ones.
        device: auto, cpu, cuda, cuda:1, …
        trust: allow the checkpoint's config to name classes from outside ebmzoo, whose code then runs.
        overwrite: replace the file out.
    """
    for name, value in {"n": 1 if n is None else n, "frames": frames - 1}.items():
        if value < 1:
            raise UserError(f"{name} is {n if name == 'n' else frames}; it must be {1 + (name == 'frames')} or more")
    if not (0 < fps <= 50):
        raise UserError(f"fps is {fps}; it must be above 0, and 50 at most")
    check_local(out, "out")
    if Path(out).suffix.lower() != ".gif":
        raise UserError(f"out is {out}; an animation is written to a .gif")
    check_free([Path(out)], overwrite)
    folder = Path(run)
    if what == "training":
        made = list(_evenly(_of_training(folder if folder.is_dir() else folder.parent), frames))
    else:
        path = str(folder / LAST) if folder.is_dir() else run
        method = load(path, trust)
        if not isinstance(method, Method):
            raise UserError(f"run: {path} holds a {type(method).__name__}, which does not sample")
        method = placed(method, weights, device)
        data = config_data(read(path)[KEY]["config"], trust) if math.prod(method.image_shape) == 2 else None
        torch.manual_seed(seed)
        with forecasting():
            states = list(_states(method, n or (64 if data is None else 1000), frames))
        made = [captioned(picture, caption) for caption, picture in _drawn(method, data, states)]
    save_gif(made, Path(out), fps)
    print(f"{len(made)} frames of {what}: {out}")


def _of_training(folder: Path) -> list[Image.Image]:
    """The grids of samples that the run has drawn, in order, with their iterations."""
    paths = sorted(folder.glob("samples/step_*.png"))
    if not paths:
        raise UserError(f"run: {folder} has no grids of samples, samples/step_*.png; `--grid_every` draws them")
    found = []
    for path in paths:
        check_regular(path)
        picture = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
        found.append(captioned(picture, f"iteration {int(re.sub(r'[^0-9]', '', path.stem)):,}"))
    return found


def _states(method: Method, n: int, frames: int) -> Iterator[State]:
    """The states that are shown, from the start of the chains to the samples."""
    if isinstance(method, RunsChain):
        steps = method.chain_steps
        shown = set(_evenly(range(steps + 1), frames))
        with method.evaluating():
            start, chain = method.long_chain(n, steps)
            for k, x in enumerate(tracked(chain, "chain", total=steps + 1, unit="step")):
                if k in shown:
                    yield State(f"step {k} of {steps}" if k else f"start: {start}", x.cpu())
    elif isinstance(method, SamplesInStages):
        for stage in method.stages(n, keep=max(2, frames // 2)):
            for nfe, x in zip(stage.nfe, stage.states, strict=True):
                yield State(f"{stage.name}: {nfe} network evaluations", x.cpu())
    elif isinstance(method, HasLevels):
        for level, x in reversed(list(enumerate(reversed(method.trajectory(n))))):
            yield State(f"noise level {level} of {method.schedule.levels}", x.float().cpu(), level)
    elif seen := _watched(method, n, frames):
        yield from seen
    else:
        raise UserError(f"{type(method).__name__} has no chain whose states could be shown")


def _watched(method: Method, n: int, frames: int) -> list[State]:
    """The states of a chain that only samples go through, since it has no law to run longer for; none without one."""
    if not isinstance(method, HasChain):
        return []
    with watched(method, most=frames) as recorder:
        method.sample(n)
    seen = recorder.states()
    steps = seen[-1].step if seen else 0
    return [State(f"step {x.step} of {steps}", method.range.outward(x.x).cpu()) for x in seen]


def _drawn(method: Method, data: LightningDataModule | None, states: list[State]) -> Iterator[tuple[str, Tensor]]:
    """The caption and the picture of each state."""
    if data is None:
        for state in states:
            yield state.caption, grid(state.images)
        return
    if not isinstance(data, PlaneData):
        raise UserError("run: the config names no data on the plane, whose density is shown beside the model's")
    levels = {level.index or 0: level for level in noise_levels(method)}
    kept: dict[int, tuple[Tensor | None, Tensor, float]] = {}
    for state in states:
        level = levels[state.level]
        if state.level not in kept:
            edges = level.edges(data, CELLS)
            with method.evaluating():
                fitted = None if level.energy is None else cell_masses(level.energy, edges, 2500, method.device)
            exact = data.masses(edges, level.alpha_bar, level.sigma_bar)
            kept[state.level] = fitted, exact, level.half_width(data)
        fitted, exact, half_width = kept[state.level]
        points = state.images.flatten(1)
        names = "chains" if fitted is None else "chains and e⁻ᴱ", "exact density"
        yield state.caption, plane_picture(points, fitted, exact, half_width, names)


def _evenly(items: Iterable[T], most: int) -> list[T]:
    """At most so many of the items, evenly spaced, with both ends."""
    every = list(items)
    if len(every) <= most:
        return every
    return [every[round(k * (len(every) - 1) / (most - 1))] for k in range(most)]
