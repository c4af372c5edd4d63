"""The commands that Lightning has: fit, validate, test and predict, on our trainer."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from ebmzoo.commands.environment import quietly
from ebmzoo.errors import UserError
from ebmzoo.methods import Method
from ebmzoo.report.scorecard import scorecard
from ebmzoo.report.wandb_runs.loggers import RunIdentity, closing_wandb, log_scorecard, loggers
from ebmzoo.sampling.langevin import ChainDivergedError
from ebmzoo.tasks import Task
from ebmzoo.tasks.budget import BUDGETS
from ebmzoo.tasks.suite import suite
from ebmzoo.training.callbacks import PredictionsFile, ProgressBar, SampleGrid
from ebmzoo.training.checkpoint import LAST, LastCheckpoint, Rollbacks, newest, read
from ebmzoo.training.config import ZooParser, mendable, sections
from ebmzoo.training.config_files import with_resolved_configs
from ebmzoo.training.migration import KEY
from ebmzoo.training.record import TrainingRecord
from ebmzoo.training.stop import StopOnSignal
from ebmzoo.training.trainer import DEFAULTS, ZooTrainer
from ebmzoo.training.trust import nothing_foreign
from ebmzoo.training.watchdog import DivergedError, Event, Watchdog, events_of

OWN = (
    "seed_everything",
    "run_dir",
    "weights",
    "checkpoint_every",
    "grid_every",
    "watchdog",
    "tasks",
    "trainer",
    "model",
    "data",
)
"""The keys of a config that belong to the run, not to one command; a checkpoint carries them."""


def main(args: list[str]) -> None:
    """Run the command `args[0]` of Lightning's."""
    with quietly(), closing_wandb(), tempfile.TemporaryDirectory() as folder:
        args = with_resolved_configs(args, Path(folder))
        trust = trusts(args)
        args = with_names_of_tasks(with_config_of_checkpoint(args, Path(folder)))
        rollbacks = Rollbacks()
        with nothing_foreign(trust):
            while (again := ZooCLI(args, rollbacks).again) is not None:
                args, rollbacks = again


class ZooCLI(LightningCLI):
    """LightningCLI for any `LightningModule` and data module by class path, with a run folder and tasks."""

    again: tuple[list[str], Rollbacks] | None = None
    """The command line to go on with, where a run has diverged and may be tried again, and what has led to it."""

    resumed: int | None = None
    """The iteration of the checkpoint that the run goes on from."""

    def __init__(self, args: list[str], rollbacks: Rollbacks | None = None) -> None:
        self.rollbacks = rollbacks or Rollbacks()
        try:
            self._run(args)
        except _GoOn as go_on:
            self.again = [*args, *go_on.flags], self.rollbacks
        except (DivergedError, ChainDivergedError) as error:
            if self.subcommand != "fit":
                raise
            step = self.trainer.global_step
            told = f"iteration {step}: {error}, or lower the learning rate"
            seen = error.event if isinstance(error, DivergedError) else Event(step, "non_finite", told)
            self.again = self._after(seen, args)
            if self.again is None:
                raise DivergedError(seen) from error

    def _run(self, args: list[str]) -> None:
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            trainer_class=ZooTrainer,
            trainer_defaults=DEFAULTS,
            seed_everything_default=0,
            parser_class=ZooParser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={"prog": "ebmzoo"},
            args=args,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)  # without Lightning's warning that sys.argv is there too

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(Watchdog, "watchdog")
        parser.add_argument("--run_dir", type=str, default="runs/run", help="the folder for all that the run makes")
        parser.add_argument("--tasks", type=list[Task], default=[], help="what `ebmzoo test` asks the model")
        parser.add_argument(
            "--weights",
            type=Literal["ema", "raw"],
            default="ema",
            help="evaluate averaged weights or those being trained",
        )
        parser.add_argument("--checkpoint_every", type=int, default=1000, help="iterations between two checkpoints")
        parser.add_argument(
            "--grid_every", type=int, default=500, help="iterations between two sample grids, 0 for none"
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.set_defaults({"weights_only": True})  # no checkpoint may run code
        parser.add_argument(
            "--trust",
            type=bool,
            default=False,
            help="let a checkpoint's config name classes that are not ebmzoo's, which runs their code",
        )
        if subcommand == "fit":
            parser.add_argument(
                "--resume",
                type=Literal["auto"] | None,
                default=None,
                help="`auto`: go on with the newest good checkpoint in run_dir; start the run where there is none",
            )
        if subcommand == "test":
            parser.set_defaults({"verbose": False})  # the scorecard says it better than Lightning's table
            parser.add_argument(
                "--only",
                type=str,
                default=None,
                help="the tasks to ask, with commas, or `config`; also `--tasks generation,ood`",
            )
            parser.add_argument(
                "--budget",
                type=Literal[tuple(BUDGETS)],
                default="standard",
                help="the counts of samples, images and seeds: few, the config's, or those of published tables",
            )
            parser.add_argument("--again", type=bool, default=False, help="ask also the tasks that have been answered")
        return parser

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        run_dir = Path(config.run_dir)
        resumes = self.subcommand == "fit" and _resumes(config)
        if resumes:
            config.ckpt_path = _found(run_dir)
        if config.ckpt_path is not None:
            checkpoint = read(config.ckpt_path)
            self.resumed = checkpoint["global_step"]
        elif self.subcommand != "fit":
            raise UserError(f"{self.subcommand} needs --ckpt_path, a checkpoint that `ebmzoo fit` wrote")
        goes_on = config.ckpt_path is not None and Path(config.ckpt_path).parent == run_dir
        if self.subcommand == "fit" and not (goes_on or resumes) and (run_dir / LAST).exists():
            config.run_dir = str(_next_free(run_dir))
        if self.subcommand == "fit" and goes_on and (told := Rollbacks.of(checkpoint)).tries > self.rollbacks.tries:
            self.rollbacks = told
            if resumes:  # the config is the one that the run began with
                raise _GoOn("--resume", "null", "--ckpt_path", config.ckpt_path, *told.flags)

    def instantiate_classes(self) -> None:
        with mendable():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config[self.subcommand]
        run_dir, init = Path(config.run_dir), self.config_init[self.subcommand]
        if isinstance(self.model, Method):
            self.model.use_averages = config.weights == "ema"
        names = [task.name for task in init.tasks]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise UserError(f"tasks: {repeated.pop()} stands there twice, and its figures would overwrite each other")
        if self.subcommand == "test" and isinstance(self.model, Method):
            picked = None if config.only is None else [name for name in config.only.split(",") if name]
            init.tasks = suite(init.tasks, self.model, self.datamodule, BUDGETS[config.budget], picked, config.again)
        callbacks = [*(init.trainer.callbacks or []), *init.tasks]
        if init.trainer.enable_progress_bar is not False:
            callbacks.append(ProgressBar())
        if self.subcommand == "fit" and not init.trainer.fast_dev_run:
            keep = LastCheckpoint(run_dir, self.config_text(), config.checkpoint_every, self.rollbacks)
            callbacks += [
                SampleGrid(config.grid_every),
                TrainingRecord(run_dir),
                init.watchdog,
                StopOnSignal(keep),
                keep,
            ]
        if self.subcommand == "predict":
            callbacks.append(PredictionsFile())
        chosen = init.trainer.logger
        if chosen is None or chosen is True:
            read_from = [Path(str(path)) for path in config.config or []]
            chosen = loggers(run_dir, RunIdentity.of(self.model, self.datamodule, read_from))
        return super().instantiate_trainer(
            callbacks=callbacks,
            logger=chosen,
            default_root_dir=str(run_dir),
            enable_checkpointing=self.subcommand == "fit" and not init.trainer.fast_dev_run,
        )

    def _after(self, seen: Event, args: list[str]) -> tuple[list[str], Rollbacks] | None:
        """The command line to go on with after a divergence, None where there is none; what was seen is kept."""
        config = self.config[self.subcommand]
        run_dir = Path(config.run_dir)
        if (tries := self.rollbacks.tries) >= config.watchdog.retries:
            if self.trainer.is_global_zero:
                seen.write(run_dir, aloud=False)
            return None
        changed = {key: _scaled(config, key, factor) for key, factor in (config.watchdog.changes or {}).items()}
        checkpoint, seed = newest(run_dir), int(config.seed_everything) + 1
        back = "the start" if checkpoint is None else str(checkpoint)
        told = f"{seen.told}. Going back to {back} (try {tries + 1} of {config.watchdog.retries}) with seed {seed}"
        told += "".join(f", {key} {value}" for key, value in changed.items())
        if self.trainer.is_global_zero:
            Event(seen.step, seen.event, told).write(run_dir)
        rollbacks = Rollbacks(tries + 1, {"seed_everything": seed} | changed)
        again = [*args, "--run_dir", str(run_dir), "--resume", "null", *rollbacks.flags]
        again += [] if checkpoint is None else ["--ckpt_path", str(checkpoint)]
        return again, rollbacks

    def config_text(self) -> str:
        """The run's own keys, resolved, as YAML."""
        told = yaml.safe_load(self._parser(self.subcommand).dump(self.config[self.subcommand], skip_unset=False))
        return yaml.safe_dump({key: told[key] for key in OWN if key in told}, sort_keys=False)

    def tell_missing(self) -> None:
        """What the tasks lack, before any data is read: a run may be long, and the test comes at its end."""
        if self.trainer.is_global_zero:
            for task in self.config_init[self.subcommand].tasks:
                for sentence in task.missing():
                    print(f"{task.name}: {sentence}", file=sys.stderr)

    before_test = tell_missing

    def before_fit(self) -> None:
        self.tell_missing()
        run_dir = Path(self.trainer.default_root_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        if self.trainer.is_global_zero:
            (run_dir / "config.yaml").write_text(self.config_text())
        for logger in self.trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(self.config_text()))

    def after_fit(self) -> None:
        checkpoint = Path(self.trainer.default_root_dir) / LAST
        if self.trainer.is_global_zero and self.resumed == self.trainer.global_step:
            print(f"the run had ended already, at iteration {self.resumed}: there was nothing left to train")
        if self.trainer.is_global_zero and checkpoint.exists():
            print(f"checkpoint: {checkpoint}\nnext:       ebmzoo test --ckpt_path {checkpoint}")

    def after_test(self) -> None:
        folder = Path(self.trainer.default_root_dir) / "test"
        tasks = self.config_init[self.subcommand].tasks
        if self.trainer.is_global_zero:
            for event in events_of(folder.parent):
                print(f"! training: {event.told}")
        if self.trainer.is_global_zero and tasks:
            log_scorecard(self.trainer.loggers, folder, [task.name for task in tasks])
            print(scorecard(folder, [task.name for task in tasks]) + f"\n\nfigures with their protocol: {folder}")
        elif self.trainer.is_global_zero:
            for name, value in self.trainer.callback_metrics.items():
                print(f"{name}: {float(value):.4g}")

    def before_predict(self) -> None:
        if not isinstance(self.model, Method):
            raise UserError(f"predict is for methods with an energy, not for a {type(self.model).__name__}")

    def after_validate(self) -> None:
        if self.trainer.is_global_zero:
            print("\n".join(f"{name}: {float(value):.4g}" for name, value in self.trainer.callback_metrics.items()))


def with_config_of_checkpoint(args: list[str], folder: Path) -> list[str]:
    """`--ckpt_path X` without `--config`: the config that the checkpoint carries, before what the command line says.

    The config is put into `folder` as a file.

    Raises:
        UserError: a command other than `fit` was given neither.
    """
    flags = [arg.split("=", 1)[0] for arg in args]
    if {"--config", "-c", "-h", "--help"} & set(flags):
        return args
    if "--ckpt_path" not in flags:
        if args[0] != "fit":
            raise UserError(f"{args[0]} needs --ckpt_path, a checkpoint that `ebmzoo fit` wrote")
        return args
    at = flags.index("--ckpt_path")
    given = args[at].partition("=")[2] or (args[at + 1] if at + 1 < len(args) else "")
    carried = read(given)[KEY]["config"]
    try:
        config = sections(carried)
    except UserError as error:
        raise UserError(f"ckpt_path: {given}: {error}") from error
    config["run_dir"] = str(Path(given).parent)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return [args[0], "--config", str(path), *args[1:]]


def trusts(args: list[str]) -> bool:
    """Whether any class may be named: in a config of the user's own always, in a checkpoint's with `--trust true`."""
    flags = [arg.split("=", 1)[0] for arg in args]
    if {"--config", "-c"} & set(flags) or "--ckpt_path" not in flags:
        return True
    values = [arg.partition("=")[2] or " ".join(args[at + 1 : at + 2]) for at, arg in enumerate(args)]
    given = [value for flag, value in zip(flags, values, strict=True) if flag == "--trust"]
    return bool(given) and given[-1].lower() == "true"


def with_names_of_tasks(args: list[str]) -> list[str]:
    """`test --tasks generation,ood` as `test --only generation,ood`: the names of tasks, where others give a list."""
    if args[0] != "test":
        return args
    joined = re.sub(r"(^|\0)--tasks[=\0](?=[a-z_]+(,[a-z_]+)*,?(\0|$))", r"\1--only=", "\0".join(args))
    return joined.split("\0")


def _scaled(config: Any, key: str, factor: float) -> float | int:
    """The number at `key` of a resolved config, times `factor`; a whole number stays one.

    Raises:
        UserError: there is no number at that key.
    """
    at: Any = config
    for part in key.split("."):
        at = at.get("init_args", at) if part not in at else at
        if part not in at:
            raise UserError(f"watchdog.changes: there is no key '{key}'")
        at = at[part]
    if isinstance(at, bool) or not isinstance(at, int | float):
        raise UserError(f"watchdog.changes: {key} is {at}, which is no number")
    return max(1, round(at * factor)) if isinstance(at, int) else at * factor


class _GoOn(Exception):
    """The command line lacks these flags."""

    def __init__(self, *flags: str) -> None:
        super().__init__(*flags)
        self.flags = flags


def _resumes(config: Any) -> bool:
    """Whether a fit looks for a checkpoint by itself: where it is told to, and in a job that SLURM has put back.

    Raises:
        UserError: it is told to, and is given a checkpoint.
    """
    if config.resume is not None and config.ckpt_path is not None:
        raise UserError(
            "--resume auto looks for a checkpoint by itself, and --ckpt_path names one; give one of the two"
        )
    put_back = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    return config.ckpt_path is None and (config.resume is not None or put_back)


def _found(run_dir: Path) -> str | None:
    """The checkpoint that a run goes on with; says which."""
    found = newest(run_dir)
    told = f"{run_dir} holds no checkpoint that is whole: the run starts"
    if found is not None:
        told = f"going on with {found}, of iteration {read(found)['global_step']}"
    if getattr(rank_zero_only, "rank", 0) == 0:
        print(told)
    return None if found is None else str(found)


def _next_free(run_dir: Path) -> Path:
    count = 2
    while ((free := run_dir.with_name(f"{run_dir.name}-{count}")) / LAST).exists():
        count += 1
    print(f"{run_dir} holds a run already; this one goes into {free} (to go on with it: --resume auto)")
    return free
