"""What the files of a run must hold to be compared: everything that is read from one has passed these checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


def of_result(content: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the result of a task, in the order in which reading relies on it.

    >>> next(of_result({"task": "ood", "figures": {"far/auroc": "high"}, "protocol": {}}))
    "its figure far/auroc is 'high', and must be a number or null"

    Args:
        content: The content of the file, with `task`, `figures` and `protocol`.
    """
    for name, value in content["figures"].items():
        if value is not None and not _is_number(value):
            yield f"its figure {name:.60} is {value!r:.60}, and must be a number or null"
    spread, notes = content.get("spread", {}), content.get("notes", [])
    if not _maps(spread, lambda value: value is None or _is_number(value)):
        yield f"its spread is {spread!r:.60}, and must be a mapping of numbers"
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        yield f"its notes are {notes!r:.60}, and must be a list of sentences"
    for key, problem in _of_protocol(content["protocol"]):
        yield f"its protocol has {content['protocol'].get(key)!r:.60} at {key}, and must have {problem}"


def _of_protocol(protocol: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The entries of a protocol that are not as a task writes them, each with what is needed."""
    if not _maps(protocol.get("chains") or {}, _is_chain):
        yield "chains", "the steps and the start of each chain"
    if not _maps(protocol.get("kinds", {}), lambda kind: isinstance(kind, str)):
        yield "kinds", "a mapping of words"
    if "out_images" in protocol and not (
        isinstance(protocol["out_images"], Mapping) and isinstance(protocol.get("kinds"), Mapping)
    ):
        yield "out_images", "a mapping of sets, with their kinds beside it"
    chosen = protocol.get("chosen", {})
    if not isinstance(chosen, Mapping) or not isinstance(chosen.get("reported_on", {}), Mapping):
        yield "chosen", "the numbers of images that it is reported on"
    sets = protocol.get("sets")
    if sets is not None and not (
        isinstance(sets, Mapping)
        and all(_is_set(sets[part]) for part in ("train", "test") if part in sets)
        and _maps(sets.get("out", {}), _is_set)
    ):
        yield "sets", "the number, name and digest of each set"


def of_training(content: Mapping[str, Any], costs: Sequence[str]) -> Iterator[str]:
    """What is wrong with the record of a training.

    Args:
        content: The content of `training.json`.
        costs: Its keys that are numbers.
    """
    if not _maps(content.get("parameters") or {}, _is_number):
        yield f"its parameters are {content['parameters']!r:.60}, and must be a number for each network"
    for key in costs:
        if content.get(key) is not None and not _is_number(content[key]):
            yield f"its {key} is {content[key]!r:.60}, and must be a number"


def _maps(content: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(content, Mapping) and all(fits(value) for value in content.values())


def _is_number(value: Any) -> bool:
    """Whether it is a number, which JSON may also write as NaN or infinite, that a float holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 2**1023


def _is_chain(chain: Any) -> bool:
    if not isinstance(chain, Mapping) or not isinstance(chain.get("start"), str):
        return False
    return _is_number(chain.get("steps"))


def _is_set(entry: Any) -> bool:
    if not isinstance(entry, Mapping):
        return False
    return "digest" not in entry or (isinstance(entry["digest"], str) and {"n", "name"} <= entry.keys())
