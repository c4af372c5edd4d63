"""`ebmzoo export`: write a function of a checkpoint's model as a file that other programs run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ebmzoo.commands.command_line import with_flag_values
from ebmzoo.commands.environment import placed, quietly, writable
from ebmzoo.commands.exporting.formats import Format, check_packages, write
from ebmzoo.commands.exporting.functions import Choice, What
from ebmzoo.commands.outputs import check_free
from ebmzoo.errors import UserError
from ebmzoo.methods import Method
from ebmzoo.networks.weights import sha256
from ebmzoo.training.checkpoint import load
from ebmzoo.training.config import ZooParser
from ebmzoo.version import __version__
from ebmzoo.writing import check_local


def main(args: list[str]) -> None:
    """Export as the command line says."""
    parser = ZooParser(
        prog="ebmzoo export", description="Write a function of a checkpoint's model as a file that other programs run."
    )
    parser.add_function_arguments(export)
    flags = parser.parse_args(with_flag_values(args)[1:]).as_dict()
    with quietly():
        export(**flags)


def export(
    ckpt_path: str,
    out: str,
    what: What = "energy",
    format: Format = "onnx",
    weights: Literal["ema", "raw"] = "ema",
    level: int | None = None,
    representation: str | None = None,
    trust: bool = False,
    overwrite: bool = False,
) -> None:
    """Write the energy, the out-of-distribution score, the generator or the encoder of a checkpoint's model.

    Args:
        ckpt_path: a checkpoint that `ebmzoo fit` wrote; nothing else is needed.
        out: the file, such as energy.onnx or energy.pt2.
        what: energy, ood (the out-of-distribution score), generator or encoder.
        format: onnx, which needs `pip install 'ebmzoo[onnx]'`, or torch for a program of torch.export.
        weights: ema for the averaged weights, raw for the trained ones.
        level: the noise level of the energy, 0 the least, for a method with levels; by default that of its energy.
        representation: the name of the representation, for an encoder of several.
        trust: allow the checkpoint's config to name classes from outside ebmzoo, whose code then runs.
        overwrite: replace the file out.
    """
    check_local(out, "out")
    path = Path(out)
    if path.is_dir():
        raise UserError(f"out is {out}, which is a folder; it must be a file")
    check_free([path], overwrite)
    check_packages(format)
    method = load(ckpt_path, trust)
    if not isinstance(method, Method):
        raise UserError(f"ckpt_path: {ckpt_path} holds a {type(method).__name__}, which has no energy to export")
    writable(path.parent)
    function = Choice(what, level, representation).of(placed(method, weights, "cpu"))
    facts = {
        "ebmzoo": __version__,
        "method": type(method).__name__,
        "what": what,
        "input": function.takes,
        "output": function.gives,
        "weights": weights,
        "checkpoint_sha256": sha256(Path(ckpt_path)),
    }
    write(function, format, path, facts)
    print(
        f"{what} of a {facts['method']}, {weights} weights: {out}\ninput:  {function.takes}\noutput: {function.gives}"
    )
