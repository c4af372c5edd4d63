"""What has changed between a checkpoint and the run that resumes from it, in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer

from ebmzoo.errors import plain
from ebmzoo.sampling.auto_precision import has_bf16

SHOWN = 12
"""The most changes that the line lists."""

ELSEWHERE = ("run_dir", "tasks", "trainer.precision")
"""Keys that do not affect training, or that `conditions` states as the trainer has resolved them."""

HELD = ("encoder_checkpoint", "coder_checkpoint", "mean", "std", "zero_init_residual")
"""Arguments of a model that only its beginning reads, or that its buffers hold: a checkpoint's are kept."""


def conditions(trainer: Trainer) -> dict[str, Any]:
    """What the numbers of a run depend on besides its config; a checkpoint states it."""
    device = trainer.strategy.root_device.type
    chains = {
        f"precision of model.{name}": "bf16" if has_bf16(device)[0] else "fp32"
        for name, value in getattr(trainer.lightning_module, "__dict__", {}).items()
        if getattr(value, "precision", None) == "auto"
    }
    return {
        "precision": str(trainer.precision),
        "threads": torch.get_num_threads(),
        "device": device,
        "torch": str(torch.__version__),
    } | chains


def changed_keys(before: Any, now: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The keys of a resolved config that have changed, each with its value before and now.

    Keys that only one of the two has are left out, since another version of the package may have written it. The
    arguments of another class are not compared.

    >>> old = {"model": {"class_path": "m.VAE", "init_args": {"lr": 0.1, "net": {"class_path": "n.Old"}}}}
    >>> new = {"model": {"class_path": "m.VAE", "init_args": {"lr": 0.2, "net": {"class_path": "n.New"}}}}
    >>> list(changed_keys(old, new))
    [('model.lr', 0.1, 0.2), ('model.net', 'Old', 'New')]
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping) and before.get("class_path") == now.get("class_path"):
        for key in (key for key in now if key in before):
            below = at if key == "init_args" else f"{at}.{key}".lstrip(".")
            yield from changed_keys(before[key], now[key], below)
    elif _are_lists(before, now):
        for i, (one, two) in enumerate(zip(before, now, strict=True)):
            yield from changed_keys(one, two, f"{at}.{i}")
    elif before != now and at not in ELSEWHERE and at.split(".")[0] not in ELSEWHERE:
        yield at, _shown(before), _shown(now)


def _are_lists(before: Any, now: Any) -> bool:
    lists = isinstance(before, Sequence) and isinstance(now, Sequence) and not isinstance(before, str)
    return lists and not isinstance(now, str) and len(before) == len(now)


def _shown(value: Any) -> Any:
    """A value, or the short name of a class."""
    return (
        str(value["class_path"]).rpartition(".")[2] if isinstance(value, Mapping) and "class_path" in value else value
    )


def changes_line(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    conditions_before: Mapping[str, Any],
    conditions_now: Mapping[str, Any],
    step: int,
    notes: Sequence[str] = (),
) -> str | None:
    """The line about what a resumed run changes, and what of it applies; None if nothing has changed.

    Args:
        before: The config of the checkpoint.
        now: The config of the run.
        conditions_before: The `conditions` of the checkpoint, as far as it states them.
        conditions_now: The `conditions` of the run.
        step: The iteration of the checkpoint.
        notes: What follows from the changes.
    """
    found = list(changed_keys(before, now))
    found += [(k, conditions_before[k], v) for k, v in conditions_now.items() if conditions_before.get(k, v) != v]
    held = [change for change in found if _is_held(change[0])]
    applied = [change for change in found if change not in held]
    parts = []
    if applied:
        verb = "applies" if len(applied) == 1 else "apply"
        parts.append(f"{_listed(applied)} {verb} from iteration {step} on")
    if held:
        verb = "has" if len(held) == 1 else "have"
        parts.append(f"{_listed(held)} {verb} no effect, since the checkpoint holds what came of it")
    parts += notes
    return f"changed since the checkpoint: {'; '.join(parts)}" if parts else None


def _is_held(key: str) -> bool:
    top, *parts = key.split(".")
    return top == "model" and [part for part in parts if not part.isdigit()][-1:] in ([name] for name in HELD)


def _listed(changes: Sequence[tuple[str, Any, Any]]) -> str:
    words = [f"{key} {_word(before)} → {_word(now)}" for key, before, now in changes[:SHOWN]]
    return ", ".join(words) + (f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else "")


def _word(value: Any) -> str:
    text = "null" if value is None else plain(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
