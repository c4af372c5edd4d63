"""The optimizers of a resumed run: their moments come from the checkpoint, everything else from the present config."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from ebmzoo.errors import UserError
from ebmzoo.methods.base.method import Method
from ebmzoo.training.schema import is_number

FOLLOWED = ("lr", "initial_lr")
"""The hyper-parameters that a schedule changes; no state of an optimizer depends on them."""

LONGEST = 10**8
"""The most steps of a schedule that are repeated; a file that states more would take minutes or forever."""


def optimizer_names(trainer: Trainer) -> list[str]:
    """A name for each optimizer: that of the network which it trains, or its number."""
    if isinstance(trainer.lightning_module, Method):
        return [*trainer.lightning_module.trained_networks()]
    return [f"optimizer {i}" for i in range(len(trainer.optimizers))]


class ResumedOptimizers:
    """Restores optimizers and schedules so that what the config changes takes effect.

    torch's optimizers load their hyper-parameters with their moments, and its schedules their base rates, so that a
    changed learning rate would have no effect. Here an optimizer keeps the hyper-parameters that the config gives it
    and loads its moments and step counts, where they are of the kind that it needs. A schedule of the config goes
    through as many steps as the checkpoint's has taken, which gives the same rate bit for bit if nothing was changed; a
    new one begins at its first step. A schedule that follows a metric (`ReduceLROnPlateau`) is loaded as it was.

    Args:
        checkpoint: The contents that Lightning will load.
        names: The names of the checkpoint's optimizers in order; None where it does not state them.
    """

    def __init__(self, checkpoint: dict[str, Any], names: list[str] | None = None) -> None:
        self._checkpoint = checkpoint
        self._names = names
        self._steps: dict[str, int] = {}
        self.notes: list[str] = []
        """What else the config changes, one sentence part each."""

    def before_loading(self, trainer: Trainer) -> None:
        """Put the config's hyper-parameters into the states that Lightning will load; the optimizers must exist."""
        if "optimizer_states" not in self._checkpoint or not isinstance(
            trainer.strategy, SingleDeviceStrategy | DDPStrategy
        ):
            return
        names = optimizer_names(trainer)
        states_before = self._checkpoint["optimizer_states"]
        known = self._names or (names if len(names) == len(states_before) else [])
        saved = dict(zip(known, states_before, strict=False))
        present = {name: config.scheduler for name, config in _scheduled(trainer, names)}
        before = self._schedules_before(saved, [*present])
        states = []
        for name, optimizer in zip(names, trainer.optimizers, strict=True):
            states.append(_merged(optimizer, saved.get(name)))
            if states[-1]["state"] == {} and (name not in saved or saved[name]["state"]):
                self.notes.append(f"the optimizer of {name} starts without moments, since the checkpoint's do not fit")
            if name in present and name not in before:
                self.notes.append(f"the schedule of {name} begins at its first step")
            if name in before and name not in present:
                self.notes.append(f"{name} has no schedule any more")
            if isinstance(present.get(name), ReduceLROnPlateau) and name in before:
                _keep_rates(states[-1], saved[name])
        self._checkpoint["optimizer_states"] = states
        self._checkpoint["lr_schedulers"] = [
            before[name] if isinstance(scheduler, ReduceLROnPlateau) and name in before else scheduler.state_dict()
            for name, scheduler in present.items()
        ]
        self._steps = {name: _steps(before[name]) for name in present if name in before}

    def after_loading(self, trainer: Trainer) -> None:
        """Take the schedules to where the checkpoint's were; the data must be set up, which gives a run its length.

        Raises:
            UserError: A schedule of the config ends before that.
        """
        for name, config in _scheduled(trainer, optimizer_names(trainer)):
            if isinstance(config.scheduler, LRScheduler) and not isinstance(config.scheduler, ReduceLROnPlateau):
                steps = self._steps.get(name, 0)
                try:
                    if steps > LONGEST:
                        raise ValueError(f"at most {LONGEST:,} are possible")
                    _advance(config.scheduler, steps)
                except ValueError as error:
                    raise UserError(
                        f"model: the schedule of {name} cannot continue after the checkpoint's {steps} steps: "
                        f"{' '.join(str(error).split())}"
                    ) from error

    def _schedules_before(self, saved: Mapping[str, Any], present: list[str]) -> dict[str, dict[str, Any]]:
        """The states of the checkpoint's schedules by the name of their optimizer."""
        states = self._checkpoint.get("lr_schedulers", [])
        # a schedule gives the groups of its optimizer their initial rate
        found = [name for name, state in saved.items() if any("initial_lr" in g for g in state["param_groups"])]
        return dict(zip(found if len(found) == len(states) else present, states, strict=False))


def _scheduled(trainer: Trainer, names: list[str]) -> list[tuple[str, Any]]:
    """The schedules of a run, as Lightning holds them, by the name of their optimizer."""
    of = {id(optimizer): name for name, optimizer in zip(names, trainer.optimizers, strict=True)}
    return [(of[id(config.scheduler.optimizer)], config) for config in trainer.lr_scheduler_configs]


def _merged(optimizer: Optimizer, saved: Mapping[str, Any] | None) -> dict[str, Any]:
    """The state to load: the optimizer's own hyper-parameters with the saved moments; without any that do not fit."""
    fresh = optimizer.state_dict()
    if saved is None or [len(g["params"]) for g in saved["param_groups"]] != [
        len(g["params"]) for g in fresh["param_groups"]
    ]:
        return fresh
    state: dict[Any, Any] = {}
    for group, own, before in zip(optimizer.param_groups, fresh["param_groups"], saved["param_groups"], strict=True):
        changed, examples = _fixed(own) != _fixed(before), _Examples(optimizer, group)
        for parameter, index, number in zip(group["params"], before["params"], own["params"], strict=True):
            moments = saved["state"].get(index)
            if moments is None:
                continue
            example = examples.of(parameter)
            if (example is None and changed) or (example is not None and not _is_like(moments, example)):
                return fresh
            kept = moments if example is None or not changed else example
            state[number] = {key: value for key, value in moments.items() if key in kept}
    return {"state": state, "param_groups": fresh["param_groups"]}


def _keep_rates(state: dict[str, Any], saved: Mapping[str, Any]) -> None:
    for group, before in zip(state["param_groups"], saved["param_groups"], strict=False):
        group["lr"] = before["lr"]


def _fixed(group: Mapping[str, Any]) -> str:
    """The hyper-parameters of a group that no schedule changes."""
    return repr(sorted((key, value) for key, value in group.items() if key not in ("params", *FOLLOWED)))


class _Examples:
    """What an optimizer keeps for a parameter, from a step on another one of its shape."""

    def __init__(self, optimizer: Optimizer, group: Mapping[str, Any]) -> None:
        self._kind = type(optimizer)
        known = inspect.signature(self._kind).parameters
        self._arguments = {key: group[key] for key in known if key in group and key != "params"}
        self._found: dict[torch.Size, Mapping[str, Any] | None] = {}

    def of(self, parameter: Tensor) -> Mapping[str, Any] | None:
        """The state of one of this shape; None if the optimizer cannot be made for it."""
        if parameter.shape not in self._found:
            self._found[parameter.shape] = self._state(parameter.shape)
        return self._found[parameter.shape]

    def _state(self, shape: torch.Size) -> Mapping[str, Any] | None:
        parameter = nn.Parameter(torch.zeros(shape))
        parameter.grad = torch.zeros_like(parameter)
        try:
            probe = self._kind([parameter], **self._arguments)
            probe.step()
        except Exception:  # a class of the user's may need anything
            return None
        return dict(probe.state[parameter])


def _is_like(moments: Any, example: Mapping[str, Any]) -> bool:
    """Whether a saved state has all that an optimizer needs, in these shapes."""
    if not isinstance(moments, Mapping) or not example.keys() <= moments.keys():
        return False
    for key, needed in example.items():
        found = moments[key]
        if isinstance(needed, Tensor) != isinstance(found, Tensor):
            return needed is None
        if isinstance(needed, Tensor) and found.shape != needed.shape:
            return False
        if isinstance(needed, int | float) and not is_number(found):
            return False
    return True


def _steps(state: Mapping[str, Any]) -> int:
    """The number of steps that a schedule of this state has taken."""
    while "last_epoch" not in state and state.get("_schedulers"):  # several, chained
        state = state["_schedulers"][0]
    steps = state.get("last_epoch", 0)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise UserError(f"ckpt_path: a schedule of the checkpoint has taken {steps!r:.60} steps; a number is needed")
    return steps


def _advance(scheduler: LRScheduler, steps: int) -> None:
    """Let a schedule that has just been made take its steps."""
    if isinstance(scheduler, LambdaLR) and steps > 1:  # a function of the step alone
        scheduler.load_state_dict(scheduler.state_dict() | {"last_epoch": steps - 1, "_step_count": steps})
        steps = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer has not stepped before its schedule
        for _ in range(steps):
            scheduler.step()
