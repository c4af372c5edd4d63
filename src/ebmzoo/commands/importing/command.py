"""`ebmzoo import`: convert a checkpoint published by a paper's authors to one of `ebmzoo`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import lightning
import torch
import yaml
from torch import Tensor

from ebmzoo.commands.environment import writable
from ebmzoo.commands.importing.layouts import LAYOUTS, PublishedLayout, shapes
from ebmzoo.errors import UserError
from ebmzoo.methods import Method
from ebmzoo.methods.base.averaging import Average
from ebmzoo.methods.base.capabilities import EvaluatesAsPaper, Evaluation
from ebmzoo.networks.integrity import check_finite
from ebmzoo.networks.weights import read_weights
from ebmzoo.reading import read_yaml
from ebmzoo.training.checkpoint import LAST
from ebmzoo.training.config import ZooParser, build_model
from ebmzoo.training.config_files import named_config
from ebmzoo.training.durable import DurableIO
from ebmzoo.training.migration import FORMAT, KEY
from ebmzoo.training.trust import shell_command
from ebmzoo.version import __version__
from ebmzoo.writing import write_whole

SHOWN = 3
"""The largest number of mismatches that an error lists."""


def main(args: list[str]) -> None:
    """Parse the flags after `import` and write the checkpoint."""
    parser = ZooParser(
        prog="ebmzoo import", description="Convert a checkpoint published by a paper's authors to one of ebmzoo."
    )
    parser.add_argument("file", type=str, help="the published file")
    parser.add_argument(
        "--as", type=Literal[tuple(LAYOUTS)], required=True, help="the published checkpoint that the file holds"
    )
    parser.add_argument(
        "--out", type=str, default=None, help="the run folder to create (default: runs/<name>_imported)"
    )
    parser.add_argument(
        "--evaluation",
        type=Evaluation,
        default="library",
        help="how `test` and `sample` draw images: as for all methods (library), or as the authors' code does (paper)",
    )
    flags = parser.parse_args(args[1:]).as_dict()
    name = flags["as"]
    out = Path(flags["out"] or f"runs/{name}_imported")
    path = import_checkpoint(flags["file"], name, out, flags["evaluation"])
    print(f"checkpoint: {path}\nnext:       {shell_command('test', path, named_config(LAYOUTS[name].config))}")


def import_checkpoint(file: str | Path, name: str, out: Path, evaluation: Evaluation = "library") -> Path:
    """Write `out/last.ckpt` with the weights of a published file; returns its path.

    Raises:
        UserError: The file cannot be read or holds another network or weights that are not finite, the folder already
            holds a run, or `evaluation` is `paper` for a method whose paper evaluates as the library does.
    """
    if (out / LAST).exists() or (out / "config.yaml").exists():
        raise UserError(f"out: {out} holds a run already; give another folder with --out")
    contents = read_weights(file)
    if not isinstance(contents, Mapping):
        raise UserError(f"{file}: a mapping of state dicts is needed, found a {type(contents).__name__}")
    config = named_config(LAYOUTS[name].config)
    method, state, mismatches = filled(config, LAYOUTS[name], contents)
    if evaluation == "paper" and not isinstance(method, EvaluatesAsPaper):
        raise UserError(f"evaluation: {name}'s paper evaluates as the library does; leave --evaluation out")
    if mismatches:
        more = f" and {len(mismatches) - SHOWN} more" if len(mismatches) > SHOWN else ""
        nearest = _nearest(contents, name, len(mismatches))
        raise UserError(f"{file} does not fit {name}: {'; '.join(mismatches[:SHOWN])}{more}{nearest}")
    check_finite(state, file)
    run = {**read_yaml(config), "run_dir": str(out)}
    if evaluation == "paper":
        run["model"]["init_args"]["evaluation"] = evaluation
    writable(out)
    text = yaml.safe_dump(run, sort_keys=False)
    write_whole(out / "config.yaml", text)
    checkpoint = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": state,
        KEY: {
            "format": FORMAT,
            "version": __version__,
            "config": text,
            "random": [],
            "buffers": [],
            "rollbacks": {},
            "imported": {"file": Path(file).name, "as": name, "source": LAYOUTS[name].source},
        },
    }
    DurableIO().save_checkpoint(checkpoint, out / LAST)
    return out / LAST


def filled(
    config: str, layout: PublishedLayout, contents: Mapping[str, Any]
) -> tuple[Method, dict[str, Tensor], list[str]]:
    """The method, its state dict with the file's weights, and the mismatches between the two."""
    method = build_model(config)
    assert isinstance(method, Method)
    state = method.state_dict()
    try:
        theirs = layout.weights(contents)
    except UserError as error:
        return method, {}, [str(error)]
    networks = tuple(f"{part.network}." for part in layout.parts)
    averages = tuple(f"averages.{part.network}.module." for part in layout.parts)
    ours = {name: value for name, value in state.items() if name.startswith((*networks, *averages))}
    theirs = {name: value for name, value in theirs.items() if name.startswith(networks) or name in ours}
    mismatches = list(shapes(ours, theirs))
    if mismatches:
        return method, {}, mismatches
    with torch.no_grad():
        for name, value in theirs.items():
            state[name] = value.reshape(ours[name].shape).to(ours[name].dtype)
        for part in layout.parts:
            if (count := f"averages.{part.network}.n_averaged") in state:
                # Past the iterations in which an average follows the network fast, so that training would keep it.
                state[count] = torch.as_tensor(cast(Average, method.averages[part.network]).settled)
    return method, state, []


def _nearest(contents: Mapping[str, Any], name: str, count: int) -> str:
    """A hint at the published checkpoint that the file fits better, or nothing."""
    found = {
        other: len(filled(named_config(layout.config), layout, contents)[2])
        for other, layout in LAYOUTS.items()
        if other != name and all(any(key in contents for key, _ in part.sections) for part in layout.parts)
    }
    best = min(found, key=found.__getitem__, default=None)
    return f"; it fits --as {best} better" if best is not None and found[best] < count else ""
