"""Shared models on the command line, in the place of a checkpoint: `--pretrained NAME`, `--ckpt_path hf:user/name`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ebmzoo.commands import MODULES
from ebmzoo.commands.command_line import CONFIG, options
from ebmzoo.errors import UserError
from ebmzoo.training.sharing.hub import Address, is_on_hub
from ebmzoo.training.sharing.shared_model import is_shared, located
from ebmzoo.training.sharing.zoo import folder_of, names

PRETRAINED = "a trained model that comes with ebmzoo, such as dual_mcmc_digits, instead of ckpt_path"
RESULTS = Path("runs") / "shared"
"""The folder for the results of models that are not in a folder of the user's."""


def with_shared_model(args: Sequence[str]) -> list[str]:
    """The command line with the file of a shared model as its checkpoint; the same one, if it names none.

    The results of `test` and its kin then go to `RESULTS`, unless the model is in a folder, which gets them.

    Raises:
        UserError: The line names two models, or a model that there is not, or wants of it what only a checkpoint has.
    """
    named = [option for option in options(args) if option.name in ("--pretrained", "--ckpt_path")]
    if len({option.name for option in named}) == 2:
        raise UserError(f"{args[0]}: --pretrained and --ckpt_path both name a model; give one of them")
    found = [args[0]]
    for option in options(args):
        if option not in named:
            found += option.words
            continue
        path, home = _model(option.name, option.value)
        if path is None:
            found += option.words
            continue
        _check(args)
        joined = "=" in option.words[0]
        found += ["--ckpt_path", str(path), *option.words[1 if joined else 2 :]]
        given = {other.name for other in options(args)}
        if home is not None and MODULES[args[0]] == "lightning" and not given & {"--run_dir", *CONFIG}:
            found += ["--run_dir", str(RESULTS / home)]
    return found


def _model(flag: str, value: str | None) -> tuple[Path | None, str | None]:
    """The file of a shared model and the name of the folder for its results; None for a checkpoint."""
    if flag == "--pretrained":
        if value is None:
            raise UserError(f"pretrained: a name is needed, one of {', '.join(names())}")
        return located(folder_of(value)), value
    if value is None or value in ("null", "~"):
        return None, None
    try:
        path = located(value)
    except UserError as error:
        raise UserError(f"ckpt_path: {error}") from error
    if not is_shared(path):
        return None, None
    return path, Address.of(value).repository if is_on_hub(value) else None


def _check(args: Sequence[str]) -> None:
    """Check that a command line wants nothing of a shared model that only a checkpoint has."""
    if args[0] == "fit":
        raise UserError(
            "fit goes on from a checkpoint that `ebmzoo fit` wrote; a shared model has no state of its training"
        )
    if any(option.name == "--weights" and option.value == "raw" for option in options(args)):
        raise UserError("weights is raw, but a shared model has the averaged weights alone; leave --weights out")
