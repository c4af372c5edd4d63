"""Which tasks a test asks: those that a config names, and every other that the method can be asked."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import import_module

from lightning.pytorch import LightningDataModule

from ebmzoo.errors import UserError
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics import FeatureExtractor, Pixels
from ebmzoo.tasks.base import Task
from ebmzoo.tasks.budget import Budget
from ebmzoo.tasks.generation import Generation


def suite(
    named: Sequence[Task],
    method: Method,
    data: LightningDataModule,
    budget: Budget,
    picked: Sequence[str] | None = None,
    again: bool = False,
) -> list[Task]:
    """The tasks to ask, in the order of the config and then of the alphabet, with the budget's counts.

    What a config does not name is asked as it is by default, with the feature extractors of the config's `generation`.

    Args:
        named: the tasks that the config names, with its settings.
        method: what they are asked of.
        data: whose images they use.
        budget: their counts of samples, images and seeds.
        picked: the names of those to ask, `config` for those that the config names; None for all.
        again: ask also what has been answered.

    Raises:
        UserError: a name is picked that is no task's, or that of a task that cannot be asked here.
    """
    if picked is not None and list(picked) == ["config"]:
        every, picked = {task.name: task for task in named}, None
    else:
        every = {task.name: task for task in [*named, *_others(named)]}
    for name in picked or ():
        if name not in every and name not in _names():
            near = difflib.get_close_matches(name, {*every, *_names()}, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(sorted({*every, *_names()}))}"
            raise UserError(f"tasks: there is no task '{name}'; {hint}")
        if name not in every:
            raise UserError(f"tasks: {name} needs settings of its own: name it in the config's `tasks`")
        if not every[name].fits(method, data):
            raise UserError(f"tasks: {name} cannot be asked of {type(method).__name__} on {type(data).__name__}")
    chosen = [task for name, task in every.items() if (picked is None or name in picked) and task.fits(method, data)]
    for task in chosen:
        task.under(budget)
        task.seeds, task.again = budget.seeds, again
    return chosen


def _others(named: Sequence[Task]) -> list[Task]:
    extractors: list[FeatureExtractor] = [Pixels()]
    for task in named:
        if isinstance(task, Generation):
            extractors = task.extractors
    taken = {task.name for task in named}
    found = [kind.standard(extractors) for name, kind in _kinds().items() if name not in taken]
    return [task for task in found if task is not None]


def _names() -> set[str]:
    return set(_kinds())


def _kinds() -> dict[str, type[Task]]:
    """Every task of the package, by its name."""
    package = import_module("ebmzoo.tasks")
    kinds = [getattr(package, name) for name in package.__all__]
    tasks = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Task) and kind is not Task]
    return {task.name: task for task in tasks}
