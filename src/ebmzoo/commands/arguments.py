"""The arguments of `fit`, `validate`, `test` and `predict` beside those of trainer, model and data."""

from __future__ import annotations

from typing import Literal

from lightning.pytorch.cli import LightningArgumentParser

from ebmzoo.commands.resume import RUN_DIR
from ebmzoo.tasks import Task
from ebmzoo.tasks.budget import BUDGETS
from ebmzoo.training.best_checkpoints import Selection
from ebmzoo.training.watchdog import Watchdog


def add_run_arguments(parser: LightningArgumentParser) -> None:
    """Add the arguments of every command: those of a run, which its checkpoints carry."""
    parser.add_class_arguments(Watchdog, "watchdog")
    parser.add_class_arguments(Selection, "checkpoint")
    parser.add_argument("--run_dir", type=str, default=RUN_DIR, help="the folder for everything that the run writes")
    parser.add_argument("--tasks", type=list[Task], default=[], help="the tasks of `ebmzoo test`")
    parser.add_argument(
        "--weights",
        type=Literal["ema", "raw"],
        default="ema",
        help="evaluate the averaged weights (ema) or the trained ones (raw)",
    )
    parser.add_argument("--checkpoint_every", type=int, default=1000, help="iterations between checkpoints")
    parser.add_argument("--grid_every", type=int, default=500, help="iterations between sample grids; 0 for none")


def add_command_arguments(parser: LightningArgumentParser, subcommand: str) -> None:
    """Add the arguments of one command."""
    parser.set_defaults({"weights_only": True})  # no checkpoint may run code
    parser.add_argument(
        "--trust",
        type=bool,
        default=False,
        help="allow a checkpoint's config to name classes from outside ebmzoo, whose code then runs",
    )
    if subcommand == "fit":
        parser.add_argument(
            "--resume",
            type=Literal["auto"] | None,
            default=None,
            help="`auto`: resume from the newest intact checkpoint in run_dir; without one, start anew",
        )
        parser.add_argument(
            "--changed_data",
            type=bool,
            default=False,
            help="resume from a checkpoint although the training images are others than those it was trained on",
        )
        parser.add_argument(
            "--prepare",
            type=bool,
            default=False,
            help="first train what the config needs and is not there: an encoder, a coder, the tasks' classifiers",
        )
    if subcommand == "predict":
        parser.add_argument("--overwrite", type=bool, default=False, help="replace earlier predictions")
    if subcommand == "test":
        parser.set_defaults({"verbose": False})  # the scorecard replaces Lightning's table
        parser.add_argument(
            "--only",
            type=str,
            default=None,
            help="names of the tasks to run, separated by commas, or `config` for those of the config",
        )
        parser.add_argument(
            "--budget",
            type=Literal[tuple(BUDGETS)],
            default="standard",
            help="numbers of samples, images and seeds: few (quick), the config's, or those of published tables",
        )
        parser.add_argument("--summary", type=bool, default=False, help="print the summary of the scorecard alone")
        parser.add_argument(
            "--details",
            type=bool,
            default=False,
            help="print every metric of every score, in lines of any length",
        )
        parser.add_argument("--again", type=bool, default=False, help="run tasks that already have results again")
        parser.add_argument(
            "--fresh_features",
            type=bool,
            default=False,
            help="compute the features of the real images anew, without those that are kept, and keep none",
        )
