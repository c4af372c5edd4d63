"""The tasks that a test runs: those that a config lists, and every other that the method supports."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import import_module

from lightning.pytorch import LightningDataModule

from ebmzoo.errors import UserError
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics import Classifier, FeatureExtractor, Pixels
from ebmzoo.tasks.base import Task
from ebmzoo.tasks.budget import Budget
from ebmzoo.tasks.generation import Generation


def suite(
    configured: Sequence[Task],
    method: Method | Classifier,
    data: LightningDataModule,
    budget: Budget,
    selected: Sequence[str] | None = None,
    rerun: bool = False,
    reuse: bool = True,
) -> list[Task]:
    """The tasks to run, in the order of the config and then of the alphabet, with the budget's counts.

    A task that the config does not list has its default settings, with the feature extractors of the config's
    `generation`.

    Args:
        configured: The tasks that the config lists, with its settings.
        method: The method to evaluate, or a classifier.
        data: The data module with the images.
        budget: The numbers of samples, images and seeds.
        selected: The names of the tasks to run, `config` for those that the config lists; None for all.
        rerun: Whether to run tasks with an up-to-date result rerun.
        reuse: Whether features of real images may be those of an earlier test, and are kept for a later one.

    Raises:
        UserError: A name is not that of a task, or its task cannot be run here.
    """
    if selected is not None and list(selected) == ["config"]:
        every, selected = {task.name: task for task in configured}, None
    else:
        every = {task.name: task for task in [*configured, *_others(configured)]}
    for name in selected or ():
        if name not in every and name not in _names():
            near = difflib.get_close_matches(name, {*every, *_names()}, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(sorted({*every, *_names()}))}"
            raise UserError(f"tasks: there is no task '{name}'; {hint}")
        if name not in every:
            raise UserError(f"tasks: {name} has settings without defaults; list it in the config's `tasks`")
        if not every[name].fits(method, data):
            raise UserError(f"tasks: {name} cannot be run for {type(method).__name__} on {type(data).__name__}")
    chosen = [
        task for name, task in every.items() if (selected is None or name in selected) and task.fits(method, data)
    ]
    for task in chosen:
        task.apply_budget(budget)
        task.seeds, task.rerun = budget.seeds, rerun
        for extractor in getattr(task, "extractors", ()) if not reuse else ():
            extractor.reuse = False
    return chosen


def extractors_of(tasks: Sequence[Task]) -> list[FeatureExtractor]:
    """The feature extractors of the tasks' `generation`; the pixels where it is not among them."""
    found = [task.extractors for task in tasks if isinstance(task, Generation)]
    return found[-1] if found else [Pixels()]


def _others(configured: Sequence[Task]) -> list[Task]:
    extractors = extractors_of(configured)
    listed = {task.name for task in configured}
    found = [kind.standard(extractors) for name, kind in _kinds().items() if name not in listed]
    return [task for task in found if task is not None]


def _names() -> set[str]:
    return set(_kinds())


def _kinds() -> dict[str, type[Task]]:
    """Every task of the package, by its name."""
    package = import_module("ebmzoo.tasks")
    kinds = [getattr(package, name) for name in package.__all__]
    tasks = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Task) and kind is not Task]
    return {task.name: task for task in tasks}
