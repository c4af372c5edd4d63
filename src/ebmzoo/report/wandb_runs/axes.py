"""What a training has cost: the x-axes over which W&B draws the curves of different methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RECORD = "training.json"
"""The file in a run's folder that stores what its training has cost."""
AXES = {"cost/images": "images", "cost/evaluations": "evaluations", "cost/seconds": "seconds"}
"""The x-axes, and their keys in that file."""
DRAWN = ("train/", "val/")
"""The beginnings of the keys of curves."""


def axes(record: Mapping[str, Any]) -> dict[str, float]:
    """The x-axes that the record of a training has; a quantity that was not counted is null there."""
    return {axis: record[key] for axis, key in AXES.items() if isinstance(record.get(key), int | float)}
