"""Watches a run for typical failures of training energies, reports them, and stops runs that cannot recover."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ebmzoo.errors import UserError, plain
from ebmzoo.methods.base.capabilities import StartsFromProposal
from ebmzoo.methods.base.method import Method
from ebmzoo.reading import read_bytes
from ebmzoo.report.write_errors import ignore_write_errors
from ebmzoo.sampling.randomness import repeatable
from ebmzoo.training.ranks import gather_objects
from ebmzoo.writing import append_rows

Kind = Literal["non_finite", "exploding_energy", "dead_energy", "collapsed_generator"]


EVENTS = "events.jsonl"
"""The file of a run's events, one in a line."""

STILL = 1e-6
"""A displacement per pixel below this is zero: it reveals a dead energy if the chain has no noise."""


@dataclass(frozen=True)
class Event:
    """An event of a run: its iteration, its kind, and its message, a sentence."""

    step: int
    event: str
    message: str

    def write(self, folder: Path, echo: bool = True) -> None:
        """Append the event to `EVENTS` in the folder and, with `echo`, print its message to standard error."""
        if echo:
            print(self.message, file=sys.stderr)
        with ignore_write_errors(f"event in {folder / EVENTS}"):
            line = json.dumps({"step": self.step, "event": self.event, "told": self.message})
            append_rows(folder / EVENTS, f"{line}\n")


class DivergedError(UserError):
    """A run has diverged; `event` has the iteration and the reason."""

    def __init__(self, event: Event) -> None:
        super().__init__(event.message)
        self.event = event


class Watchdog(Callback):
    """Checks the logged values of every `every_n_steps`-th iteration, and the weights before a checkpoint is written.

    - `non_finite`: a logged value or a weight is NaN or infinite. - `exploding_energy`: |mean E| of data or chain is
    above `energy_limit`. - `dead_energy`: `train/displacement_ratio`, the chain's displacement over √K·τ, is at or
    below `dead_ratio`: the chain
      moves no farther than by its noise alone; or, without noise, not at all.
    - `collapsed_generator`: the proposals of the generator (or initializer) vary, per pixel, less than `collapse` times
      as much as the data; checked every tenth time.

    The last two are reported after `patience` checks in a row. A kind in `stops` ends the run: the exception leaves the
    last checkpoint, which is from before, and `ebmzoo fit` goes back to it up to `retries` times, each time with
    another seed and with every config key of `changes` multiplied by its factor.

    Args:
        stops: The kinds that end a run; the others are only reported.
        retries: The number of times that `ebmzoo fit` goes back to the last checkpoint; 0 ends the run at once.
        changes: Config keys and factors, such as `{model.sampler.step_size: 0.5, model.sampler.steps: 2}`.
        energy_limit: The limit of `exploding_energy`, above 0.
        dead_ratio: The limit of `dead_energy`.
        collapse: The limit of `collapsed_generator`; 0 disables the check.
        patience: Checks in a row, 1 or more.
        every_n_steps: Iterations between two checks, 1 or more.

    Raises:
        UserError: A number is out of range.
    """

    def __init__(
        self,
        stops: tuple[Kind, ...] = ("non_finite", "exploding_energy"),
        retries: int = 0,
        changes: dict[str, float] | None = None,
        energy_limit: float = 1e8,
        dead_ratio: float = 1.02,
        collapse: float = 0.02,
        patience: int = 5,
        every_n_steps: int = 50,
    ) -> None:
        least = {"retries": (retries, 0), "patience": (patience, 1), "every_n_steps": (every_n_steps, 1)}
        for key, (value, needed) in (least | {"collapse": (collapse, 0)}).items():
            if value < needed:
                raise UserError(f"watchdog.{key} is {value}; it must be {needed} or more")
        if not energy_limit > 0:
            raise UserError(f"watchdog.energy_limit is {energy_limit}; it must be above 0")
        self.stops = tuple(stops)
        self.retries = retries
        self.changes = changes or {}
        self.energy_limit = energy_limit
        self.dead_ratio = dead_ratio
        self.collapse = collapse
        self.patience = patience
        self.every_n_steps = every_n_steps
        self._in_a_row: dict[str, int] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"in_a_row": dict(self._in_a_row)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._in_a_row = dict(state_dict["in_a_row"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every_n_steps != 0:
            return
        values = _log_values(trainer)
        seen = dict(self._immediate(values))
        seen |= self._persistent("dead_energy", _dead(values, self.dead_ratio))
        if trainer.global_step % (10 * self.every_n_steps) == 0 and isinstance(pl_module, Method):
            seen |= self._persistent("collapsed_generator", self._collapsed(pl_module, batch))
        self._report(trainer, seen)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to save a state that a run could not resume from."""
        stops: tuple[str, ...] = self.stops
        seen = {kind: message for kind, message in self._immediate(_log_values(trainer)) if kind in stops}
        for name, value in checkpoint["state_dict"].items():
            if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
                seen["non_finite"] = f"{name} holds NaN or infinity; the last checkpoint is from before"
                break
        for event in self._events(trainer, seen):
            raise DivergedError(event)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, DivergedError):
            _log(trainer, exception.event)

    def _immediate(self, values: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """The kinds of events that are reported at once, with their messages."""
        # The ratio divides by √K·τ, which may be 0; the displacement itself is watched too.
        watched = {name: value for name, value in values.items() if name != "train/displacement_ratio"}
        bad = [name for name, value in watched.items() if not math.isfinite(value)]
        if bad:
            yield "non_finite", f"{', '.join(bad)} {'is' if len(bad) == 1 else 'are'} not finite"
        for name in ("train/energy_data", "train/energy_chain"):
            value = values.get(name, 0.0)
            if math.isfinite(value) and abs(value) > self.energy_limit:
                yield "exploding_energy", f"{name} is {value:.3g}, beyond {self.energy_limit:.3g}"

    def _collapsed(self, method: Method, batch: Any) -> str | None:
        if not (
            self.collapse and method.trains_energy and isinstance(method, StartsFromProposal) and method.can_propose
        ):
            return None
        with repeatable(seed=0):
            proposed = method.sample(32, steps=0).images
        ratio = float(proposed.std(0).mean() / batch[0].std(0).mean().clamp_min(1e-12))
        if ratio >= self.collapse:
            return None
        return f"the generator has collapsed, its images vary {ratio:.2g} times as much as the data"

    def _persistent(self, kind: str, message: str | None) -> dict[str, str]:
        """The message, if it is the `patience`-th of its kind in a row."""
        self._in_a_row[kind] = self._in_a_row.get(kind, 0) + 1 if message is not None else 0
        return {kind: message} if message is not None and self._in_a_row[kind] == self.patience else {}

    def _report(self, trainer: Trainer, seen: Mapping[str, str]) -> None:
        for event in self._events(trainer, seen):
            if event.event in self.stops:
                raise DivergedError(event)
            if trainer.is_global_zero:
                event.write(Path(trainer.default_root_dir))
            _log(trainer, event)

    def _events(self, trainer: Trainer, seen: Mapping[str, str]) -> list[Event]:
        """The events that any process has seen, so that all continue or stop together; every process must call it."""
        step, found = trainer.global_step, dict[str, str]()
        for one in gather_objects(dict(seen)):
            found = one | found
        return [Event(step, kind, f"iteration {step}: {text}{_REMEDIES[kind]}") for kind, text in found.items()]


def _log(trainer: Trainer, event: Event) -> None:
    """Log the event as a point among the run's curves."""
    for logger in trainer.loggers:
        logger.log_metrics({f"watchdog/{event.event}": 1.0}, step=event.step)


_REMEDIES = {
    "non_finite": "; lower the learning rate or the step size, limit the gradient (clip_norm), or set watchdog.retries",
    "exploding_energy": "; lower the learning rate, regularise the energies, or use spectral_norm",
    "dead_energy": "; try spectral_norm: none, a larger step_size or gamma, or less noise",
    "collapsed_generator": "; lower its learning rate or lengthen the chain",
}


def _log_values(trainer: Trainer) -> dict[str, float]:
    """The logged `train/…` values; the host waits for the device once for all of them."""
    logged = {n: v for n, v in trainer.callback_metrics.items() if n.startswith("train/") and v.numel() == 1}
    if not logged:
        return {}
    values = torch.stack([v.detach().float().flatten()[0] for v in logged.values()]).tolist()
    return dict(zip(logged, values, strict=True))


def _dead(values: Mapping[str, float], limit: float) -> str | None:
    ratio = values.get("train/displacement_ratio")
    if values.get("train/displacement", 1.0) < STILL:
        return "the energy is dead, the chain does not move"
    if ratio is None or not math.isfinite(ratio) or ratio > limit:
        return None
    return f"the energy is dead, the chain has moved {ratio:.3f} times as far as its noise alone"


def read_events(run_dir: Path) -> list[Event]:
    """Read the events of a run, in order; a line that is no event, such as half of one, is named and left out."""
    path, found = run_dir / EVENTS, []
    try:
        lines = read_bytes(path).splitlines()
    except FileNotFoundError:
        return []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            found.append(Event(int(record["step"]), plain(record["event"]), plain(record["told"])))
        except (ValueError, TypeError, KeyError, RecursionError):
            print(f"{path}: line {number} is no event and is left out", file=sys.stderr)
    return found
