"""`ebmzoo export`: write a function of a checkpoint's model as a file that other programs run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ebmzoo.commands.class_names import index_of
from ebmzoo.commands.command_line import with_flag_values
from ebmzoo.commands.environment import placed, quietly, writable
from ebmzoo.commands.exporting.formats import Format, check_packages, write
from ebmzoo.commands.exporting.functions import Choice, What, classes_of
from ebmzoo.commands.outputs import check_free
from ebmzoo.commands.shared_models import PRETRAINED
from ebmzoo.errors import UserError
from ebmzoo.methods import Method
from ebmzoo.networks.weights import sha256
from ebmzoo.training.checkpoint import load, read
from ebmzoo.training.config import ZooParser
from ebmzoo.training.migration import KEY
from ebmzoo.training.sharing.shared_model import located
from ebmzoo.training.training_data import TrainingData
from ebmzoo.version import __version__
from ebmzoo.writing import check_local


def main(args: list[str]) -> None:
    """Export as the command line says."""
    parser = ZooParser(
        prog="ebmzoo export", description="Write a function of a checkpoint's model as a file that other programs run."
    )
    parser.add_function_arguments(export, skip={"class_"})
    parser.add_argument("--class", type=str, default=None, help="the class that the energy is given: its index or name")
    parser.add_argument("--pretrained", type=str, default=None, help=PRETRAINED)
    flags = parser.parse_args(with_flag_values(args)[1:]).as_dict()
    flags.pop("pretrained")  # it is the checkpoint by now
    with quietly():
        export(class_=flags.pop("class"), **flags)


def export(
    ckpt_path: str,
    out: str,
    what: What = "energy",
    format: Format = "onnx",
    weights: Literal["ema", "raw"] = "ema",
    level: int | None = None,
    representation: str | None = None,
    class_: str | None = None,
    trust: bool = False,
    overwrite: bool = False,
) -> None:
    """Write the energy, the out-of-distribution score, the generator or the encoder of a checkpoint's model.

    Args:
        ckpt_path: a checkpoint that `ebmzoo fit` wrote, the folder of a shared model, or its address hf:user/name;
            nothing else is needed.
        out: the file, such as energy.onnx or energy.pt2.
        what: energy, ood (the out-of-distribution score), generator or encoder.
        format: onnx, which needs `pip install 'ebmzoo[onnx]'`, or torch for a program of torch.export.
        weights: ema for the averaged weights, raw for the trained ones.
        level: the noise level of the energy, 0 the least, for a method with levels; by default that of its energy.
        representation: the name of the representation, for an encoder of several.
        class_: the class that the energy is given, its index or its name, for a model that was trained with classes.
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
    label, name = (None, None) if class_ is None else _class(method, class_, ckpt_path)
    function = Choice(what, level, representation, label, name).of(placed(method, weights, "cpu"))
    facts = {
        "ebmzoo": __version__,
        "method": type(method).__name__,
        "what": what,
        "input": function.takes,
        "output": function.gives,
        "weights": weights,
        "checkpoint_sha256": sha256(located(ckpt_path)),
    }
    if name is not None:
        facts["class"] = name
    write(function, format, path, facts)
    print(
        f"{what} of a {facts['method']}, {weights} weights: {out}\ninput:  {function.takes}\noutput: {function.gives}"
    )


def _class(method: Method, wanted: str, ckpt_path: str) -> tuple[int, str]:
    """The index and the name of a class, of those that the checkpoint states.

    Raises:
        UserError: The energy of the method has no classes, or not this one.
    """
    if not (count := classes_of(method)):
        raise UserError(
            f"class is {wanted}, but this {type(method).__name__} was trained without classes: its energy is that of "
            "all images; leave --class out"
        )
    names = TrainingData.read(read(ckpt_path)[KEY]).classes
    if names is None or len(names) != count:
        names = tuple(map(str, range(count)))
    label = index_of(names, "the model", wanted, "--class")
    return label, names[label]
