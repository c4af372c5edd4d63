"""The entry point `ebmzoo`: it prints `--help` by itself and loads torch only for a command that needs it."""

from __future__ import annotations

import difflib
import io
import sys
from collections.abc import Sequence

from ebmzoo.errors import Misread, UserError
from ebmzoo.version import __version__

COMMANDS = {
    "fit": "train a model; everything is written to the config's run_dir",
    "validate": "compute a checkpoint's metrics on the validation images",
    "test": "evaluate a checkpoint on its tasks and print the scorecard",
    "predict": "write energies and out-of-distribution scores of the test images to a file",
    "sample": "draw images from a checkpoint",
    "restore": "restore degraded images: super-resolution, colorization, deblurring, denoising, inpainting",
    "export": "write the energy, generator or encoder of a checkpoint as an ONNX file or a program of torch.export",
    "import": "convert a checkpoint that a paper's authors have published",
    "estimate": "estimate what a config costs, in arithmetic, memory and hours, before anything is run",
    "configs": "list the configs that come with ebmzoo, or copy one to change it",
    "animate": "write a GIF of a run's training, or of the chains of its samples",
    "play": "open a page on this machine that plays with a model: its chain, energy, and your pictures",
    "compare": "compare runs in one table and one HTML page",
    "benchmark": "train and test several methods under one budget, and compare them",
    "push": "share a run's model, in a folder or on the hub: weights, config, model card",
    "dashboard": "build a W&B report that compares runs, or print what it would contain",
    "completion": "print the script by which a shell completes commands, options and names",
}
HELP = """ebmzoo trains, samples, tests and compares image energy-based models.

To start, on any machine, without an account or a network:

    ebmzoo sample --pretrained cdrl_digits --out digits.png
    ebmzoo configs
    ebmzoo fit --config liebm_digits
    ebmzoo test --ckpt_path runs/liebm_digits/last.ckpt
    ebmzoo sample --ckpt_path runs/liebm_digits/last.ckpt --n 64 --out samples.png
    ebmzoo sample --ckpt_path runs/liebm_digits/last.ckpt --class 3 --out threes.png

Commands:
{commands}

`ebmzoo COMMAND --help` lists the options of a command; `ebmzoo fit --config FILE --print_config` prints every value
that would be used. Any key of a config can be set on the command line, as in `--model.gamma 0.1`, in any order.
"""


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; print an error that the user can correct as one sentence, and exit with code 2."""
    own_process, args = args is None, list(sys.argv[1:] if args is None else args)
    if isinstance(sys.stdout, io.TextIOWrapper):  # an ASCII terminal shows "?" where it has no character
        sys.stdout.reconfigure(errors="replace")
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
            hint = f"did you mean '{near[0]}'?" if near else f"the commands are {', '.join(COMMANDS)}"
            raise UserError(f"there is no command '{args[0]}'; {hint}")
        from ebmzoo.commands import run

        if own_process:  # not within a program that may have loaded, or may need, all of them
            from ebmzoo.commands.deferred import install

            install()
        run(args, own_process)
    except (UserError, Misread) as error:
        sentence = error.sentence if isinstance(error, Misread) else str(error)
        print(f"ebmzoo: {sentence}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("ebmzoo: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
