"""`--help` of `fit`, `validate`, `test` and `predict`: examples and the keys that matter; `--help.all` has them all."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from types import ModuleType

from lightning.pytorch.cli import LightningArgumentParser

import ebmzoo.data
import ebmzoo.methods
import ebmzoo.methods.baselines  # also makes `--help.all` name them
from ebmzoo.data import ImageData, PlaneData
from ebmzoo.methods import Method
from ebmzoo.training.config_names import config_paths
from ebmzoo.training.plugins import plugins

ALL = "--help.all"
DATA_SETS = (ImageData, PlaneData)
"""The base classes of data sets."""

EXAMPLES = {
    "fit": """
    ebmzoo fit --config liebm_digits                     # minutes on a CPU; the name of a config, or the path of a file
    ebmzoo fit --config liebm_digits --resume auto       # goes on with the newest checkpoint of the run
    ebmzoo fit --config liebm_small_cifar --prepare      # first trains the encoder and classifier that the config names
    ebmzoo fit --config vae_cifar --data ebmzoo.data.ImageFolder --data.path DIR --data.size 32    # your own images
    ebmzoo fit --config liebm_digits --model.gamma 0.2 --trainer.max_epochs 50                     # any key of a config
    ebmzoo fit --config liebm_digits --print_config      # every value that would be used
""",
    "validate": """
    ebmzoo validate --ckpt_path runs/liebm_digits/last.ckpt
""",
    "test": """
    ebmzoo test --ckpt_path runs/liebm_digits/last.ckpt
    ebmzoo test --ckpt_path runs/liebm_digits/last.ckpt --only generation,ood
    ebmzoo test --ckpt_path runs/liebm_digits/last.ckpt --budget quick
""",
    "predict": """
    ebmzoo predict --ckpt_path runs/liebm_digits/last.ckpt
""",
}
RUN = {
    "--config FILE": "a config, by the path of its file or its name; a later one replaces keys of an earlier",
    "--ckpt_path FILE": "a checkpoint that `ebmzoo fit` wrote; its own config holds without --config",
    "--run_dir DIR": "the folder for everything that the run writes",
    "--seed_everything N": "the seed of all random numbers",
}
OF_COMMAND = {
    "fit": {
        "--resume auto": "go on with the newest intact checkpoint of run_dir; without one, start anew",
        "--prepare": "first train what the config needs and is not there: encoder, coder, the tasks' classifiers",
        "--checkpoint_every N": "iterations between checkpoints",
        "--grid_every N": "iterations between sample grids; 0 for none",
    },
    "test": {
        "--only NAMES": "the names of the tasks to run, separated by commas, or `config` for those of the config",
        "--budget NAME": "the numbers of samples, images and seeds: quick, standard (the config's) or paper",
        "--again": "run tasks that already have results again",
        "--fresh_features": "compute the features of the real images anew, without those that are kept, and keep none",
    },
    "predict": {"--overwrite": "replace earlier predictions"},
}
SHARED = {
    "--pretrained NAME": "a trained model that comes with ebmzoo, such as dual_mcmc_digits, instead of --ckpt_path",
    "--ckpt_path hf:USER/NAME": "a shared model of the hub; or the folder of one (docs/sharing.md)",
}
EVALUATION = {"--weights ema|raw": "evaluate the averaged weights (ema) or the trained ones (raw)"}
TRAINER = {
    "--trainer.max_steps N": "the length of the run in batches",
    "--trainer.max_epochs N": "the length of the run in epochs; -1 for no limit",
    "--trainer.accelerator NAME": "auto, cpu or gpu",
    "--trainer.devices N": "the number of devices; docs/scaling.md is about several",
    "--trainer.precision NAME": "32-true, bf16-mixed, 64-true, or auto: bf16-mixed where it is faster",
    "--trainer.accumulate_grad_batches N": "batches of one step",
    "--trainer.limit_val_batches N": "batches of a validation; 0 for none",
    "--trainer.enable_progress_bar false": "print no progress bar",
}
BEST = {
    "--checkpoint.every N": "score samples every N iterations, and keep the best checkpoint as best.ckpt; 0 for none",
    "--checkpoint.monitor NAME": "by what: fd_, kd_ or is_ and the name of an extractor of `generation`, or of pixels",
    "--checkpoint.n N": "the number of samples of a score",
    "--checkpoint.keep K": "the number of best checkpoints that are kept",
}
WATCHDOG = {
    "--watchdog.retries N": "go back to the last checkpoint after a divergence, this often",
    "--watchdog.changes '{KEY: FACTOR}'": "what to change then, such as model.sampler.step_size: 0.5",
}
MORE = {
    "--model.help CLASS": "the arguments of a method, such as ebmzoo.methods.LIEBM",
    "--data.help CLASS": "the arguments of a data set, such as ebmzoo.data.ImageFolder",
    "--tasks.help CLASS": "the arguments of a task, such as ebmzoo.tasks.Generation",
    ALL: "every key, the trainer's included",
}
TITLES = {
    "trainer": "Lightning's trainer",
    "model": "The model",
    "data": "The data",
    "checkpoint": "The best checkpoints (docs/surviving.md)",
    "watchdog": "The watchdog, which ends a run that diverges or sends it back (docs/surviving.md)",
    "ckpt_path": "The checkpoint",
}
"""The titles of the groups of `--help.all`, by the first key of each."""


def shows_help(args: Sequence[str]) -> bool:
    """Print the help of a command line, whose first word is the command, if it asks for the short one; else False."""
    if not {"-h", "--help"} & {*args} or ALL in args:
        return False
    print(page(args[0]))
    return True


def page(command: str) -> str:
    """The short help of a command."""
    parts = [f"usage: ebmzoo {command} {'--config FILE' if command == 'fit' else '--ckpt_path FILE'} [--KEY VALUE ...]"]
    parts.append("Examples:\n" + EXAMPLES[command].rstrip())
    parts.append(_group("The run", RUN | OF_COMMAND.get(command, {})))
    if command == "fit":
        parts.append(_configs())
        parts.append(_group("The trainer", TRAINER))
        parts.append(_group("The best checkpoints (docs/surviving.md)", BEST))
        parts.append(_group("Divergence", WATCHDOG))
        parts.append(_listed("Data sets, for --data ebmzoo.data.NAME", class_names(ebmzoo.data, *DATA_SETS)))
        if installed := plugins():
            parts.append(_group("Plug-ins", {plugin.class_path: f"of {plugin.package}" for plugin in installed}))
    else:
        parts.append(_group("Shared models", SHARED))
        parts.append(_group("Evaluation", EVALUATION))
    parts.append(_group("More", MORE))
    return "\n\n".join(parts)


def _group(title: str, options: dict[str, str]) -> str:
    width = max(map(len, options))
    return f"{title}:\n" + "\n".join(f"    {option:{width}}  {what}" for option, what in options.items())


def _configs() -> str:
    """The names of the configs without the ablations, by what their models are."""
    kinds: dict[str, list[str]] = {"methods": [], "baselines": [], "encoders, auto-encoders and classifiers": []}
    methods = tuple(f"ebmzoo.methods.{name}" for name in class_names(ebmzoo.methods, Method))
    for name, path in config_paths().items():
        if path.parent.name == "ablations":
            continue
        model = re.search(r"class_path: ([\w.]+)", path.read_text(encoding="utf-8"))  # the first is the model's
        kind = str(model and model[1])
        of = "methods" if kind in methods else "baselines" if kind.startswith("ebmzoo.methods.baselines.") else None
        kinds[of or "encoders, auto-encoders and classifiers"].append(name)
    return "\n\n".join(_listed(f"Configs of {kind}, for --config", names) for kind, names in kinds.items())


def _listed(title: str, names: Sequence[str]) -> str:
    text = textwrap.fill(", ".join(names), 112, break_long_words=False, break_on_hyphens=False)
    return f"{title}:\n" + textwrap.indent(text, "    ")


def class_names(package: ModuleType, *bases: type) -> list[str]:
    """The public classes of a package that a config can name, without the abstract ones."""
    found = {name: getattr(package, name) for name in package.__all__}
    return [
        name
        for name, kind in found.items()
        if isinstance(kind, type) and issubclass(kind, bases) and not getattr(kind, "__abstractmethods__", ())
    ]


def tidy_help(parser: LightningArgumentParser, command: str) -> None:
    """Give the parser of `--help.all` titles of its own, and texts without the markup of Lightning's documentation."""
    parser.usage = f"ebmzoo {command} [--KEY VALUE ...]"
    for group in parser._action_groups:
        first = next((action.dest.partition(".")[0] for action in group._group_actions), None)
        if first in TITLES:
            group.title = TITLES[first]
    for action in parser._actions:
        if action.help:
            action.help = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", action.help).replace("``", "`")
        if action.dest == "ckpt_path":
            action.help = "a checkpoint that `ebmzoo fit` wrote"
