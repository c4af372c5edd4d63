"""`fit`, `validate`, `test` and `predict`: Lightning's commands, with ebmzoo's trainer, run folder and tasks."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from ebmzoo.commands.arguments import add_command_arguments, add_run_arguments
from ebmzoo.commands.command_line import CONFIG, kept_ood, options, prepared, trusts
from ebmzoo.commands.data_shape import with_networks_for_data
from ebmzoo.commands.environment import quietly
from ebmzoo.commands.help import ALL, shows_help, tidy_help
from ebmzoo.commands.prerequisites import check_networks_exist, lacking, missing_sentences, prepare, with_paths
from ebmzoo.commands.results import show_results
from ebmzoo.commands.resume import OWN_RUN_DIR, Saved, Start, restarted, start_with_lock
from ebmzoo.errors import UserError, check_seed, plain
from ebmzoo.methods import Method
from ebmzoo.methods.base.capabilities import ClassConditional
from ebmzoo.methods.base.method import check_precision
from ebmzoo.metrics import Classifier
from ebmzoo.reading import read_yaml
from ebmzoo.report.wandb_runs.loggers import RunIdentity, closing_wandb, loggers
from ebmzoo.sampling.langevin import ChainDivergedError
from ebmzoo.tasks.budget import BUDGETS
from ebmzoo.tasks.suite import extractors_of, suite
from ebmzoo.training.best_checkpoints import BestCheckpoints
from ebmzoo.training.callbacks import NetworkSizes, PredictionsFile, SampleGrid
from ebmzoo.training.checkpoint import LAST, LastCheckpoint, newest
from ebmzoo.training.config import ZooParser, as_user_errors
from ebmzoo.training.earlier_records import set_aside
from ebmzoo.training.limits import check_fit
from ebmzoo.training.monitors import CheckMonitors
from ebmzoo.training.progress_bar import ProgressBar
from ebmzoo.training.record import TrainingRecord
from ebmzoo.training.run_lock import RunLock
from ebmzoo.training.schema import RUN_KEYS
from ebmzoo.training.stop import StopOnSignal
from ebmzoo.training.trainer import DEFAULTS, ZooTrainer
from ebmzoo.training.trust import restricted_imports, shell_command
from ebmzoo.training.watchdog import DivergedError, Event
from ebmzoo.writing import check_links, write_whole


def main(args: list[str]) -> None:
    """Run one of Lightning's commands, `args[0]`; `fit` starts again after a divergence while `watchdog` allows it."""
    if shows_help(args):
        return
    args = [args[0], "--help"] if ALL in args else args
    with quietly(), closing_wandb(), tempfile.TemporaryDirectory() as folder:
        line = prepared(args, Path(folder))
        if args[0] == "fit" and {option.name for option in options(args)} & {*CONFIG}:  # not the model of a checkpoint
            line = with_networks_for_data(line, Path(folder))
        found, lock = start_with_lock(line)
        attempt: Start | None = found
        with nullcontext() if lock is None else _leading(lock, found), restricted_imports(trusts(args)):
            while attempt is not None:
                attempt = ZooCLI(attempt).retry


@contextmanager
def _leading(lock: RunLock, start: Start) -> Iterator[None]:
    """Hold the run's folder, and tell the processes that Lightning starts which one it is."""
    os.environ[OWN_RUN_DIR] = str(start.run_dir)
    try:
        with lock:
            yield
    finally:
        os.environ.pop(OWN_RUN_DIR, None)


class ZooCLI(LightningCLI):
    """LightningCLI for any `LightningModule` and data module by class path, with a run folder and tasks.

    Args:
        start: The final command line, and what happened to the run before.

    Raises:
        DivergedError: The run has diverged and no retries are left.
    """

    retry: Start | None = None
    """How to start again, if the run has diverged and retries are left."""
    text: str | None = None
    """The `config_text`, which takes a third of a second to write; None before it is asked for."""

    def __init__(self, start: Start) -> None:
        self.start = start
        try:
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
                args=start.args,
            )
        except (DivergedError, ChainDivergedError) as error:
            if self.subcommand != "fit":
                raise
            self.retry = self._retry_after(error)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)  # without Lightning's warning that sys.argv is there too
        config = self.config[self.config.subcommand].as_dict()
        if not isinstance(config["seed_everything"], bool | None):
            check_seed(seed_everything=config["seed_everything"])
        if self.config.subcommand == "fit":
            check_fit(config)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add_run_arguments(parser)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        add_command_arguments(parser, subcommand)
        tidy_help(parser, subcommand)
        return parser

    def before_instantiate_classes(self) -> None:
        if self.start.message is not None and getattr(rank_zero_only, "rank", 0) == 0:
            print(plain(self.start.message))
        config = self.config[self.subcommand]
        check_links(config.run_dir, skipped=("wandb",))  # which has links of its own, and makes a new folder each time
        if self.subcommand == "fit" and config.prepare:
            with_paths(config, prepare(read_yaml(self.config_text()), self.start.step is None))
            self.text = None

    def instantiate_classes(self) -> None:
        with as_user_errors(self.config[self.subcommand]):
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config[self.subcommand]
        run_dir, init = Path(config.run_dir), self.config_init[self.subcommand]
        if isinstance(self.model, Method):
            self.model.use_averages = config.weights == "ema"
            check_precision(config.trainer.precision)  # of which Lightning replaces some on a CPU
        names = [task.name for task in init.tasks]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise UserError(f"tasks: {repeated.pop()} is listed twice, and its results would overwrite each other")
        if self.subcommand == "test" and isinstance(self.model, Method | Classifier):
            selected = None if config.only is None else [name for name in config.only.split(",") if name]
            if selected == []:
                raise UserError(f"only is {config.only!r}; it must be names of tasks, separated by commas, or config")
            how = (BUDGETS[config.budget], selected, config.again, not config.fresh_features)
            init.tasks = suite(init.tasks, self.model, self.datamodule, *how)
        callbacks = [CheckMonitors(), *(init.trainer.callbacks or []), *init.tasks]
        if init.trainer.enable_progress_bar is not False:
            callbacks.append(ProgressBar())
        if init.trainer.enable_model_summary is not False:
            callbacks.append(NetworkSizes())
        first = getattr(rank_zero_only, "rank", 0) == 0
        if self.subcommand == "fit" and not init.trainer.fast_dev_run:
            if first and not self.start.continues and (aside := set_aside(run_dir)):
                print(f"{run_dir} holds records of an earlier run: they are in {aside} now", file=sys.stderr)
            keep = LastCheckpoint(
                run_dir, self.config_text(), config.checkpoint_every, self.start.rollbacks, config.changed_data
            )
            callbacks += [
                TrainingRecord(run_dir),  # before the grids, which are not part of its costs
                SampleGrid(config.grid_every),
                init.watchdog,
                BestCheckpoints(init.checkpoint, run_dir, extractors_of(init.tasks)),
                StopOnSignal(keep),
                keep,
            ]
        if self.subcommand == "predict":
            callbacks.append(PredictionsFile(config.overwrite))
        chosen = init.trainer.logger
        if chosen is None or chosen is True:
            read_from = [Path(str(path)) for path in config.config or []]
            chosen = loggers(run_dir, RunIdentity.of(self.model, self.datamodule, read_from))
        trainer = super().instantiate_trainer(
            callbacks=callbacks,
            logger=chosen,
            default_root_dir=str(run_dir),
            enable_checkpointing=self.subcommand == "fit" and not init.trainer.fast_dev_run,
        )
        assert isinstance(trainer, ZooTrainer)
        trainer.model_config = read_yaml(self.config_text())["model"]
        return trainer

    def _retry_after(self, error: DivergedError | ChainDivergedError) -> Start:
        """How to start again; the divergence is recorded among the run's events, with what the retry changes.

        Raises:
            DivergedError: No retries are left.
        """
        config, step = self.config[self.subcommand], self.trainer.global_step
        if isinstance(error, DivergedError):
            event = error.event
        else:
            event = Event(step, "non_finite", f"iteration {step}: {error}, or lower the learning rate")
        run_dir = Path(config.run_dir)
        left = self.start.rollbacks.tries < config.watchdog.retries
        path = newest(run_dir) if left else None
        retry = restarted(self.start, config, None if path is None else Saved.at(path)) if left else None
        if retry is not None:
            event = replace(event, message=f"{event.message}. {retry.message}")
        if self.trainer.is_global_zero:
            event.write(run_dir, echo=retry is not None)
        if retry is None:
            raise DivergedError(event) from error
        return replace(retry, message=None)

    def config_text(self) -> str:
        """`RUN_KEYS` of the resolved configuration, as YAML."""
        if self.text is None:
            config = read_yaml(self._parser(self.subcommand).dump(self.config[self.subcommand], skip_unset=False))
            self.text = yaml.safe_dump({key: config[key] for key in RUN_KEYS if key in config}, sort_keys=False)
        return self.text

    def print_missing(self) -> None:
        """Print what the tasks lack, such as a classifier, before a long run whose test would end without it."""
        if self.trainer.is_global_zero:
            missing = lacking(self.config_init[self.subcommand].tasks) + missing_sentences(
                read_yaml(self.config_text())
            )
            kept = kept_ood(self.start.args, self.config[self.subcommand].data)
            for sentence in [*missing, *filter(None, [kept])]:
                print(plain(sentence), file=sys.stderr)

    def before_evaluation(self) -> None:
        """Take up the checkpoint's iteration, at which figures are logged, and compare its data with the present data.

        Raises:
            UserError: The model was trained with classes, and the data has others.
        """
        saved = self.start.evaluated
        if saved is None:
            return
        assert isinstance(self.trainer, ZooTrainer)
        self.trainer.log_at(saved.step, saved.epoch)
        if isinstance(self.model, ClassConditional) and self.model.classes:
            names = getattr(self.datamodule, "training_classes", (getattr(self.datamodule, "classes", None),))[0]
            if names is not None:
                saved.data.check_classes(tuple(names))
        if self.trainer.is_global_zero:
            for warning in saved.data.warnings(self.datamodule):
                print(plain(f"! data: {warning}"), file=sys.stderr)

    before_validate = before_evaluation

    def before_test(self) -> None:
        self.print_missing()
        self.before_evaluation()

    def before_fit(self) -> None:
        self.print_missing()
        if self.start.step is None:
            check_networks_exist(read_yaml(self.config_text()))
        if self.trainer.is_global_zero:
            write_whole(Path(self.trainer.default_root_dir) / "config.yaml", self.config_text())
        for logger in self.trainer.loggers:
            logger.log_hyperparams(read_yaml(self.config_text()))

    def after_fit(self) -> None:
        checkpoint = Path(self.trainer.default_root_dir) / LAST
        if self.trainer.is_global_zero and self.start.step == self.trainer.global_step:
            print(f"the run had already ended at iteration {self.start.step}: nothing was left to train")
        if self.trainer.is_global_zero and checkpoint.exists():
            print(f"checkpoint: {checkpoint}\nnext:       {shell_command('test', checkpoint, self.config_text())}")

    def after_test(self) -> None:
        config, run_dir = self.config[self.subcommand], Path(self.trainer.default_root_dir)
        if not (names := [task.name for task in self.config_init[self.subcommand].tasks]):
            self.after_validate()
        elif self.trainer.is_global_zero:
            show_results(run_dir, names, self.trainer.loggers, config.summary, config.details)

    def before_predict(self) -> None:
        if not isinstance(self.model, Method):
            raise UserError(f"predict needs a method with an energy, and the model is a {type(self.model).__name__}")

    def after_validate(self) -> None:
        if self.trainer.is_global_zero:
            figures = self.trainer.callback_metrics.items()
            print("\n".join(f"{plain(name)}: {float(value):.4g}" for name, value in figures))
