"""What a checkpoint may contain: everything that is read from one has passed `check`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import PurePath
from typing import Any

import torch
import yaml
from torch import Tensor

from ebmzoo.errors import UserError
from ebmzoo.reading import TooLargeError, check_size, read_yaml

RUN_KEYS = (
    "seed_everything",
    "run_dir",
    "weights",
    "checkpoint_every",
    "grid_every",
    "checkpoint",
    "watchdog",
    "tasks",
    "trainer",
    "model",
    "data",
)
"""The keys of a configuration that belong to the run, not to one command; a checkpoint carries them."""

_LIGHTNING: Mapping[str, type[Any]] = {
    "state_dict": Mapping,
    "epoch": int,
    "global_step": int,
    "pytorch-lightning_version": str,
    "callbacks": Mapping,
    "loops": Mapping,
    "optimizer_states": list,
    "lr_schedulers": list,
}
_OWN: Mapping[str, type[Any]] = {
    "version": str,
    "config": str,
    "random": list,
    "buffers": list,
    "rollbacks": Mapping,
    "data": Mapping,
    "imported": Mapping,
    "optimizers": list,
    "conditions": Mapping,
}
_VERSION = re.compile(r"\d+(\.\d+)*([.+-]?[a-z][a-z0-9.]*)?$")
_PROGRESS = ("epoch_progress", "epoch_loop.batch_progress", "epoch_loop.manual_optimization.optim_step_progress")
_SECTIONS = {"trainer": dict, "checkpoint": dict, "watchdog": dict, "model": dict, "data": dict, "tasks": list}
VALUES = 1_000_000
"""The largest number of values in a checkpoint, a tensor counted as one."""


def check(checkpoint: Mapping[str, Any], own: Mapping[str, Any], path: object) -> None:
    """Check that the contents of a checkpoint, in the newest format, have the types that reading them relies on.

    Args:
        checkpoint: The contents, those of Lightning among them.
        own: What `ebmzoo` keeps in it.
        path: The file, for error messages.

    Raises:
        UserError: They have others, or would be far larger in memory than in the file; or the config is no plain YAML,
            or has a key that belongs to no run.
    """
    for error in chain(_size(checkpoint), _contents(checkpoint), _own(own), _config(own["config"])):
        raise UserError(f"{path}: {error}")  # the first; those after it rely on what comes before


def _size(checkpoint: Mapping[str, Any]) -> Iterator[str]:
    """The first value that takes more memory than it has in the file, or holds itself."""
    unfit: list[str] = []

    def children(value: Any) -> list[Any]:
        if isinstance(value, Tensor) and not _is_dense(value):
            unfit.append(f"it has a tensor of shape {tuple(value.shape)} with fewer numbers than that in the file")
        if isinstance(value, Mapping):
            return [*value.keys(), *value.values()]
        return [*value] if isinstance(value, list | tuple | set | frozenset) else []

    try:
        check_size(checkpoint, children, VALUES)
    except TooLargeError as error:
        unfit.append(f"its contents are no checkpoint: {error}")
    yield from unfit


def _is_dense(tensor: Tensor) -> bool:
    """Whether each number of a tensor is in memory, so that no sum over it takes longer than the file is large."""
    if tensor.layout is not torch.strided or tensor.device.type == "meta" or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _contents(checkpoint: Mapping[str, Any]) -> Iterator[str]:
    if "state_dict" not in checkpoint:
        yield "it has no state_dict, so it is no checkpoint of a run"
    yield from _of_types(checkpoint, _LIGHTNING, "")
    for key in ("epoch", "global_step"):
        if checkpoint.get(key, 0) < 0:
            yield f"its {key} is {checkpoint[key]}; it must be 0 or more"
    yield from _tensors(checkpoint.get("state_dict", {}), "state_dict")
    for key in ("optimizer_states", "lr_schedulers"):
        if not all(isinstance(state, Mapping) for state in checkpoint.get(key, [])):
            yield f"its {key} are not mappings"
    if not all(_is_of_optimizer(state) for state in checkpoint.get("optimizer_states", [])):
        yield "its optimizer_states are not those of optimizers, with a state for each parameter and groups of them"
    if (version := checkpoint.get("pytorch-lightning_version")) is not None and not _VERSION.match(version):
        yield f"its pytorch-lightning_version is {version!r:.60}, which is no version"
    yield from _progress(checkpoint.get("loops", {}))
    for name, state in checkpoint.get("callbacks", {}).items():
        if not isinstance(name, str) or not isinstance(state, Mapping):
            yield f"its state of the callback {name!r:.60} is no mapping"
        elif (back := next(_backward(state), None)) is not None:  # which a callback may delete
            yield f"its state of the callback {name:.60} names the path {back:.100}"


def _is_of_optimizer(found: Mapping[str, Any]) -> bool:
    """Whether it has the parts of an optimizer's state; whether they fit is the optimizer's to say."""
    state, groups = found.get("state"), found.get("param_groups")
    if not isinstance(state, Mapping) or not isinstance(groups, list):
        return False
    return all(isinstance(group, Mapping) and isinstance(group.get("params"), list) for group in groups)


def _progress(loops: Mapping[str, Any]) -> Iterator[str]:
    """The parts of the progress that are not counts; the states of data loaders are theirs."""
    for loop, parts in loops.items():
        if not isinstance(parts, Mapping):
            yield f"its loops have {parts!r:.60} at {loop!s:.60}, and must have a mapping"
            return
        for name, part in parts.items():
            if name != "state_dict" and (odd := next((n for n in _leaves(part) if not _is_count(n)), None)) is not None:
                yield f"its loops count {odd!r:.60} at {loop!s:.60}.{name!s:.60}, and must count in numbers, 0 or more"
    for part in _PROGRESS if "fit_loop" in loops else ():  # without which training would begin at iteration 0
        if not isinstance(loops["fit_loop"].get(part), Mapping):
            yield f"its loops have no {part} of the fit_loop"


def _leaves(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        for child in node.values():
            yield from _leaves(child)
    else:
        yield node


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 2**63


def _own(own: Mapping[str, Any]) -> Iterator[str]:
    yield from _of_types(own, _OWN, "ebmzoo.")
    for state in own.get("random", []):
        cpu, cuda = (state.get("cpu"), state.get("cuda")) if isinstance(state, Mapping) else (None, None)
        if not isinstance(cpu, Tensor) or not isinstance(cuda, list) or not all(isinstance(s, Tensor) for s in cuda):
            yield "its ebmzoo.random are not the states of random numbers"
    for buffers in own.get("buffers", []):
        yield from _tensors(buffers, "ebmzoo.buffers")
    if not all(isinstance(name, str) for name in own.get("optimizers", [])):
        yield "its ebmzoo.optimizers are not names"
    data = own.get("data", {})
    record, classes, images = data.get("record"), data.get("classes"), data.get("images")
    if record is not None and not all(_is_set(record, part) for part in ("train", "test")):
        yield "its ebmzoo.data.record does not name the sets train and test with their numbers and digests"
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        yield "its ebmzoo.data.classes are not a list of names"
    if images is not None and not isinstance(images, Tensor):
        yield "its ebmzoo.data.images are not digests"


def _is_set(record: Any, part: str) -> bool:
    found = record.get(part) if isinstance(record, Mapping) else None
    kinds = {"name": str, "n": int, "digest": str}
    return isinstance(found, Mapping) and all(isinstance(found.get(key), kind) for key, kind in kinds.items())


def _config(text: str) -> Iterator[str]:
    try:
        config = read_yaml(text) or {}
    except yaml.YAMLError as error:
        yield f"its config is no plain YAML ({' '.join(str(error).split()):.200})"
        return
    if not isinstance(config, dict):
        yield f"its config is a {type(config).__name__}, and must be a mapping with the key model"
        return
    if foreign := [key for key in config if key not in RUN_KEYS]:
        yield f"its config has the key {foreign[0]!r:.60}, which belongs to no run; the keys are {', '.join(RUN_KEYS)}"
    for key, kind in _SECTIONS.items():
        if not isinstance(config.get(key), kind | None):
            yield f"its config has {config[key]!r:.60} at {key}, and must have a {kind.__name__} of its settings"


def _of_types(contents: Mapping[str, Any], kinds: Mapping[str, type[Any]], of: str) -> Iterator[str]:
    for key, kind in kinds.items():
        found = contents.get(key)
        if key in contents and (not isinstance(found, kind) or (kind is int and isinstance(found, bool))):
            yield f"its {of}{key} is a {type(found).__name__}, and must be a {kind.__name__.lower()}"


def _tensors(state: Any, name: str) -> Iterator[str]:
    if not isinstance(state, Mapping):
        yield f"its {name} is a {type(state).__name__}, and must be a mapping of tensors"
    elif odd := [key for key, value in state.items() if not isinstance(key, str) or not isinstance(value, Tensor)]:
        yield f"its {name} has {odd[0]!r:.60}, which is no tensor with a name"


def _backward(state: Any) -> Iterator[str]:
    """The texts in a callback's state that are paths which go back up from a folder that they name."""
    if isinstance(state, str):
        parts = PurePath(state).parts
        first = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
        if ".." in parts[first:]:
            yield state
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from _backward(key)
            yield from _backward(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _backward(value)


def value_at(config: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """The value at a key such as `model.gamma` of a config, whose classes have their arguments under `init_args`.

    >>> value_at({"model": {"class_path": "ebmzoo.methods.CLEL", "init_args": {"gamma": 0.1}}}, "model.gamma")
    0.1

    Args:
        config: The resolved config.
        key: The key.
        default: What is returned if there is no such key.
    """
    at: Any = config
    for part in key.split("."):
        if isinstance(at, Mapping) and part not in at:
            at = at.get("init_args", at)
        if not isinstance(at, Mapping) or part not in at:
            return default
        at = at[part]
    return at


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
