"""`ebmzoo push`: share a run's model, in a folder of its own or on the hub."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ebmzoo.commands.environment import quietly, writable
from ebmzoo.commands.outputs import check_free
from ebmzoo.commands.parser import Parser
from ebmzoo.commands.sample import sample
from ebmzoo.errors import UserError, plain
from ebmzoo.methods import Method
from ebmzoo.networks.weights import sha256
from ebmzoo.report.own_files import read_own
from ebmzoo.training.checkpoint import LAST, load, read
from ebmzoo.training.migration import KEY
from ebmzoo.training.sharing import zoo
from ebmzoo.training.sharing.card import Card, results_of
from ebmzoo.training.sharing.hub import Address, check_writable, is_on_hub, upload
from ebmzoo.training.sharing.shared_model import CARD, FILES, PICTURE, is_shared, write_shared
from ebmzoo.writing import check_local, write_whole

SAMPLES = 64
"""The number of samples in the picture."""
ROUNDED = "Its weights are stored in float16, each rounded to 11 bits; the figures are of the weights before rounding."
"""What a card says of `--half`."""


def main(args: list[str]) -> None:
    """Write a shared model, and upload it where the target is an address of the hub."""
    parser = Parser(
        "push",
        "Share a run's model: its averaged weights without a state of training (safetensors), its config, a model card "
        "with the figures of the run's test/ folder, and a picture of samples.",
    )
    parser.add_argument("run", help="the folder of the run, or one of its checkpoints")
    parser.add_argument(
        "--to", required=True, metavar="DIR|hf:USER/NAME", help="a folder, or a model on the hub, made if it is new"
    )
    parser.add_argument("--name", help="the model's name on the card; by default that of the folder or on the hub")
    parser.add_argument(
        "--license", help="the licence of the weights, by its identifier on the hub, such as apache-2.0"
    )
    parser.add_argument("--commit", help="the commit of ebmzoo that trained it")
    parser.add_argument("--note", action="append", default=[], help="a sentence for the card's limits; can be repeated")
    parser.add_argument(
        "--half", action="store_true", help="store the weights in float16: half the size, each rounded to 11 bits"
    )
    parser.add_argument("--private", action="store_true", help="make a new model on the hub private")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of a shared model in the folder")
    options = parser.read(args)
    checkpoint = _checkpoint(Path(options.run))
    stated = {"licence": options.license, "commit": options.commit, "notes": options.note, "half": options.half}
    with quietly():
        if is_on_hub(options.to):
            address = Address.of(options.to)
            check_writable(address)
            name = options.name or address.repository.rpartition("/")[2]
            with tempfile.TemporaryDirectory() as folder:
                share(checkpoint, Path(folder), name, f"--ckpt_path {address}", **stated)
                page = upload(address, Path(folder), FILES, options.private)
            print(f"shared model: {page}\nnext:         ebmzoo sample --ckpt_path {address}")
            return
        check_local(options.to, "to")
        target = Path(options.to)
        check_free([target / name for name in FILES], options.overwrite)
        name = options.name or target.resolve().name
        of_package = target.resolve().parent == zoo.FOLDER.resolve()
        how = f"--pretrained {name}" if of_package else f"--ckpt_path {target}"
        share(checkpoint, target, name, how, **stated)
        print(f"shared model: {target}\nnext:         ebmzoo sample {how}")


def share(
    checkpoint: Path,
    folder: Path,
    name: str,
    how: str,
    licence: str | None = None,
    commit: str | None = None,
    notes: Sequence[str] = (),
    half: bool = False,
) -> None:
    """Write the shared model of a checkpoint into a folder; its samples are drawn from what has been written.

    Args:
        checkpoint: The checkpoint that a run has written.
        folder: The folder; files of the same names are replaced.
        name: The name of the model.
        how: The option of `ebmzoo sample` that will load it.
        licence: The identifier of the licence of its weights; None where none is given.
        commit: The commit of ebmzoo that trained it; None where it is not known.
        notes: Sentences for the card's limits.
        half: Store the weights in float16.

    Raises:
        UserError: The checkpoint is none of a method, its config names a class that only `--trust` allows, or with
            `half` a weight is beyond float16's range.
    """
    contents, method = read(checkpoint), load(checkpoint)
    if not isinstance(method, Method):
        raise UserError(f"{checkpoint} holds a {type(method).__name__}; only a method, which makes images, is shared")
    run = checkpoint.parent
    results, others = results_of(run / "test", sha256(checkpoint)[:12])
    if others:
        print(f"not on the card, since of another checkpoint or of raw weights: {', '.join(others)}", file=sys.stderr)
    training = read_own(run / "training.json", dict) or {}
    writable(folder)
    write_shared(folder, contents, method, half)
    sample(str(folder), n=SAMPLES, out=str(folder / PICTURE), overwrite=True)
    step = contents.get("global_step", 0)
    sentences = [*([ROUNDED] if half else []), *map(plain, notes)]
    card = Card(name, method, contents[KEY], step, results, training, how, licence, commit, sentences)
    write_whole(folder / CARD, card.text())


def _checkpoint(run: Path) -> Path:
    path = run / LAST if run.is_dir() else run
    if not path.is_file() or is_shared(path):
        raise UserError(f"push: there is no checkpoint {path}; a run's folder is needed, as `ebmzoo fit` makes it")
    return path
