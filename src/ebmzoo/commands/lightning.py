"""`fit`, `validate`, `test` and `predict`: Lightning's commands, with ebmzoo's trainer, run folder and tasks."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from ebmzoo.commands.arguments import add_command_arguments, add_run_arguments
from ebmzoo.commands.command_line import kept_ood, prepared, trusts
from ebmzoo.commands.environment import quietly
from ebmzoo.commands.help import ALL, shows_help, tidy_help
from ebmzoo.commands.prerequisites import check_networks_exist, missing_sentences, prepare, with_paths
from ebmzoo.commands.resume import Saved, Start, restarted, start
from ebmzoo.errors import UserError
from ebmzoo.methods import Method
from ebmzoo.methods.base.capabilities import ClassConditional
from ebmzoo.report.scorecard import scorecard
from ebmzoo.report.wandb_runs.loggers import RunIdentity, closing_wandb, log_scorecard, loggers
from ebmzoo.sampling.langevin import ChainDivergedError
from ebmzoo.tasks.budget import BUDGETS
from ebmzoo.tasks.suite import suite
from ebmzoo.training.callbacks import NetworkSizes, PredictionsFile, ProgressBar, SampleGrid
from ebmzoo.training.checkpoint import LAST, LastCheckpoint, newest
from ebmzoo.training.config import ZooParser, as_user_errors
from ebmzoo.training.record import TrainingRecord
from ebmzoo.training.stop import StopOnSignal
from ebmzoo.training.trainer import DEFAULTS, ZooTrainer
from ebmzoo.training.trust import restricted_imports, shell_command
from ebmzoo.training.watchdog import DivergedError, Event, read_events

RUN_KEYS = (
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
"""The keys of a configuration that belong to the run, not to one command; a checkpoint carries them."""


def main(args: list[str]) -> None:
    """Run one of Lightning's commands, `args[0]`; `fit` starts again after a divergence while `watchdog` allows it."""
    if shows_help(args):
        return
    args = [args[0], "--help"] if ALL in args else args
    with quietly(), closing_wandb(), tempfile.TemporaryDirectory() as folder:
        attempt: Start | None = start(prepared(args, Path(folder)))
        with restricted_imports(trusts(args)):
            while attempt is not None:
                attempt = ZooCLI(attempt).retry


class ZooCLI(LightningCLI):
    """LightningCLI for any `LightningModule` and data module by class path, with a run folder and tasks.

    Args:
        start: The final command line, and what happened to the run before.

    Raises:
        DivergedError: The run has diverged and no retries are left.
    """

    retry: Start | None = None
    """How to start again, if the run has diverged and retries are left."""

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

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add_run_arguments(parser)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        add_command_arguments(parser, subcommand)
        tidy_help(parser, subcommand)
        return parser

    def before_instantiate_classes(self) -> None:
        if self.start.message is not None and getattr(rank_zero_only, "rank", 0) == 0:
            print(self.start.message)
        config = self.config[self.subcommand]
        if self.subcommand == "fit" and config.prepare:
            with_paths(config, prepare(yaml.safe_load(self.config_text()), self.start.step is None))

    def instantiate_classes(self) -> None:
        with as_user_errors(self.config[self.subcommand]):
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config[self.subcommand]
        run_dir, init = Path(config.run_dir), self.config_init[self.subcommand]
        if isinstance(self.model, Method):
            self.model.use_averages = config.weights == "ema"
        names = [task.name for task in init.tasks]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise UserError(f"tasks: {repeated.pop()} is listed twice, and its results would overwrite each other")
        if self.subcommand == "test" and isinstance(self.model, Method):
            selected = None if config.only is None else [name for name in config.only.split(",") if name]
            init.tasks = suite(init.tasks, self.model, self.datamodule, BUDGETS[config.budget], selected, config.again)
        callbacks = [*(init.trainer.callbacks or []), *init.tasks]
        if init.trainer.enable_progress_bar is not False:
            callbacks.append(ProgressBar())
        if init.trainer.enable_model_summary is not False:
            callbacks.append(NetworkSizes())
        if self.subcommand == "fit" and not init.trainer.fast_dev_run:
            keep = LastCheckpoint(run_dir, self.config_text(), config.checkpoint_every, self.start.rollbacks)
            callbacks += [
                SampleGrid(config.grid_every),
                TrainingRecord(run_dir),
                init.watchdog,
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
        trainer.model_config = yaml.safe_load(self.config_text())["model"]
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
        config = yaml.safe_load(self._parser(self.subcommand).dump(self.config[self.subcommand], skip_unset=False))
        return yaml.safe_dump({key: config[key] for key in RUN_KEYS if key in config}, sort_keys=False)

    def print_missing(self) -> None:
        """Print what the tasks lack, such as a classifier, before a long run whose test would end without it."""
        if self.trainer.is_global_zero:
            lacking: dict[str, list[str]] = {}
            for task in self.config_init[self.subcommand].tasks:
                for sentence in task.missing():
                    lacking.setdefault(sentence, []).append(task.name)
            for sentence, names in lacking.items():
                print(f"{', '.join(names)}: {sentence}", file=sys.stderr)
            for sentence in missing_sentences(yaml.safe_load(self.config_text())):
                print(sentence, file=sys.stderr)
            if (sentence := kept_ood(self.start.args, self.config[self.subcommand].data)) is not None:
                print(sentence, file=sys.stderr)

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
                print(f"! data: {warning}", file=sys.stderr)

    before_validate = before_evaluation

    def before_test(self) -> None:
        self.print_missing()
        self.before_evaluation()

    def before_fit(self) -> None:
        self.print_missing()
        if self.start.step is None:
            check_networks_exist(yaml.safe_load(self.config_text()))
        run_dir = Path(self.trainer.default_root_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        if self.trainer.is_global_zero:
            (run_dir / "config.yaml").write_text(self.config_text())
        for logger in self.trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(self.config_text()))

    def after_fit(self) -> None:
        checkpoint = Path(self.trainer.default_root_dir) / LAST
        if self.trainer.is_global_zero and self.start.step == self.trainer.global_step:
            print(f"the run had already ended at iteration {self.start.step}: nothing was left to train")
        if self.trainer.is_global_zero and checkpoint.exists():
            print(f"checkpoint: {checkpoint}\nnext:       {shell_command('test', checkpoint, self.config_text())}")

    def after_test(self) -> None:
        folder = Path(self.trainer.default_root_dir) / "test"
        tasks = self.config_init[self.subcommand].tasks
        if self.trainer.is_global_zero:
            for event in read_events(folder.parent):
                print(f"! training: {event.message}")
        if self.trainer.is_global_zero and tasks:
            log_scorecard(self.trainer.loggers, folder, [task.name for task in tasks])
            print(scorecard(folder, [task.name for task in tasks]) + f"\n\nresults with their protocols: {folder}")
        elif self.trainer.is_global_zero:
            for name, value in self.trainer.callback_metrics.items():
                print(f"{name}: {float(value):.4g}")

    def before_predict(self) -> None:
        if not isinstance(self.model, Method):
            raise UserError(f"predict needs a method with an energy, and the model is a {type(self.model).__name__}")

    def after_validate(self) -> None:
        if self.trainer.is_global_zero:
            print("\n".join(f"{name}: {float(value):.4g}" for name, value in self.trainer.callback_metrics.items()))
