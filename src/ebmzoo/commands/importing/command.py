"""`ebmzoo import`: convert a checkpoint published by a paper's authors to one of `ebmzoo`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
import yaml
from torch import Tensor

from ebmzoo.commands.environment import writable
from ebmzoo.commands.importing.layouts import LAYOUTS, Layout, shapes
from ebmzoo.errors import UserError
from ebmzoo.methods import Method
from ebmzoo.networks.weights import read_weights
from ebmzoo.training.checkpoint import LAST
from ebmzoo.training.config import ZooParser, build_model
from ebmzoo.training.config_files import named_config
from ebmzoo.training.durable import DurableIO
from ebmzoo.training.migration import FORMAT, KEY
from ebmzoo.version import __version__

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
    flags = parser.parse_args(args[1:]).as_dict()
    name = flags["as"]
    out = Path(flags["out"] or f"runs/{name}_imported")
    path = import_checkpoint(flags["file"], name, out)
    print(f"checkpoint: {path}\nnext:       ebmzoo test --ckpt_path {path}")


def import_checkpoint(file: str | Path, name: str, out: Path) -> Path:
    """Write `out/last.ckpt` with the weights of a published file; returns its path.

    Raises:
        UserError: The file cannot be read or holds another network, or the folder already holds a run.
    """
    if (out / LAST).exists():
        raise UserError(f"out: {out} holds a run already; give another folder with --out")
    contents = read_weights(file)
    if not isinstance(contents, Mapping):
        raise UserError(f"{file}: a mapping of state dicts is needed, found a {type(contents).__name__}")
    config = named_config(LAYOUTS[name].config)
    state, mismatches = filled(config, LAYOUTS[name], contents)
    if mismatches:
        more = f" and {len(mismatches) - SHOWN} more" if len(mismatches) > SHOWN else ""
        nearest = _nearest(contents, name, len(mismatches))
        raise UserError(f"{file} does not fit {name}: {'; '.join(mismatches[:SHOWN])}{more}{nearest}")
    writable(out)
    run = {**yaml.safe_load(config), "run_dir": str(out)}
    text = yaml.safe_dump(run, sort_keys=False)
    (out / "config.yaml").write_text(text, encoding="utf-8")
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


def filled(config: str, layout: Layout, contents: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict of the method with the file's weights, and the mismatches between the two."""
    method = build_model(config)
    assert isinstance(method, Method)
    state = method.state_dict()
    try:
        theirs = layout.weights(contents)
    except UserError as error:
        return {}, [str(error)]
    networks = tuple(f"{part.network}." for part in layout.parts)
    averages = tuple(f"averages.{part.network}.module." for part in layout.parts)
    ours = {name: value for name, value in state.items() if name.startswith((*networks, *averages))}
    theirs = {name: value for name, value in theirs.items() if name.startswith(networks) or name in ours}
    mismatches = list(shapes(ours, theirs))
    if mismatches:
        return {}, mismatches
    with torch.no_grad():
        for name, value in theirs.items():
            state[name] = value.reshape(ours[name].shape).to(ours[name].dtype)
        for part in layout.parts:
            if (count := f"averages.{part.network}.n_averaged") in state:
                # Past the iterations in which an average equals the network, so that training would keep it.
                state[count] = torch.as_tensor(1 + getattr(method.averages[part.network], "start", 0))
    return state, []


def _nearest(contents: Mapping[str, Any], name: str, count: int) -> str:
    """A hint at the published checkpoint that the file fits better, or nothing."""
    found = {
        other: len(filled(named_config(layout.config), layout, contents)[1])
        for other, layout in LAYOUTS.items()
        if other != name and {part.section for part in layout.parts} <= contents.keys()
    }
    best = min(found, key=found.__getitem__, default=None)
    return f"; it fits --as {best} better" if best is not None and found[best] < count else ""
