"""`ebmzoo`: the front door. It answers `--help` by itself and loads torch only for a command that needs it."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence

from ebmzoo.errors import Misread, UserError
from ebmzoo.version import __version__

COMMANDS = {
    "fit": "train a model; all that it makes goes into the config's run_dir",
    "validate": "the readings on the validation images",
    "test": "ask a trained model its tasks and print the scorecard",
    "predict": "energies and out-of-distribution scores of the data's test images, as a file",
    "sample": "draw images from a checkpoint",
    "restore": "give degraded pictures back: 4 or 8 times larger, in colour, sharp, without noise, filled in",
    "import": "make a checkpoint from one that a paper's authors publish",
    "compare": "hold runs against each other: one table, and one HTML page",
    "benchmark": "train and test several methods under one budget, and compare them",
    "dashboard": "build the report in W&B that holds runs against each other, or say what would be in it",
}
HELP = """ebmzoo trains, samples, tests and compares image energy-based models.

Try first, on any machine, without account or network:

    ebmzoo fit --config configs/liebm_digits.yaml
    ebmzoo test --ckpt_path runs/liebm_digits/last.ckpt
    ebmzoo sample --ckpt_path runs/liebm_digits/last.ckpt --n 64 --out samples.png
    ebmzoo sample --ckpt_path runs/liebm_digits/last.ckpt --class 3 --out threes.png

Commands:
{commands}

`ebmzoo COMMAND --help` lists a command's keys; `ebmzoo fit --config FILE --print_config` shows every value that
would be used. Any key of a config can be given on the command line, as in `--model.gamma 0.1`.
"""


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; on an error that the user can mend, print its sentence and exit with code 2."""
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        print(HELP.format(commands="\n".join(f"    {name:{width}}  {what}" for name, what in COMMANDS.items())), end="")
        return
    if args[0] in ("--version", "version"):
        print(f"ebmzoo {__version__}")
        return
    try:
        if args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(COMMANDS)}"
            raise UserError(f"there is no command '{args[0]}'; {hint}")
        from ebmzoo.commands import run

        run(args)
    except (UserError, Misread) as error:
        told = error.sentence if isinstance(error, Misread) else str(error)
        print(f"ebmzoo: {told}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("ebmzoo: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
