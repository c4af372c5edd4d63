"""Under what conditions a figure was found, and which of them must agree before two figures stand in one column."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ebmzoo.report.comparison.records import Record

BY_NATURE = {
    *("seed", "seeds", "checkpoint", "checkpoint_sha256", "versions", "settings", "steps"),
    *("chains", "latent_chain", "auroc_score_of_seeds", "intervals", "chosen"),
    *(
        "temperature",
        "reverse",
        "reverse_chains",
        "refuted",
        "left_out",
        "trace",
        "decoder_sigma",
        "importance_samples",
    ),
}
"""What a protocol tells that differs between methods, or is a result: no reason to refuse.

NFE, temperature and start of a chain are the method's, and stand beside its figures. `settings` restate what the
protocol tells, and what the pictures show.
"""
MACHINE = ("device", "devices", "threads", "precision")
"""What seconds depend on, and nothing else."""
ORDER = ("batch_size", "flip", "ood", "concepts", "download")
"""Settings of the data that leave the images compared as they are."""
TRAINING = ("max_train", "val_fraction", "seed")
"""Settings of the data that choose among the training images."""
TOLD = {
    "n": "n",
    "real_images": "real images",
    "in": "inside",
    "in_images": "images inside",
    "data": "test images of",
    "data.class": "data",
    "image_range": "range",
}
"""What a reader is told of a condition's name."""


def conditions(key: str, record: Record) -> dict[str, str]:
    """What must agree with another run's for the figure `<task>/…` to stand in one column with its: name to value.

    Extractors and classifiers count only by the one that the figure is named after, if it is named after one. NFE and
    the number of parameters have no conditions.
    """
    task, _, name = key.partition("/")
    column = name.rpartition("/")[2]
    if task == "training":
        return _flat({k: record.training.get(k) for k in MACHINE}) if "seconds" in column else {}
    if column.startswith("nfe"):
        return {}
    protocol: Mapping[str, Any] = record.results[task]["protocol"]
    if "out_images" in protocol:
        kept = _outside(protocol, name)
    else:
        kept = {k: _named(v, name) for k, v in protocol.items() if k not in BY_NATURE and k not in MACHINE}
    if column.startswith("seconds"):
        kept = {k: v for k, v in kept.items() if k != "extractors"} | {k: protocol.get(k) for k in MACHINE}
    told = _flat(kept)
    outside = "out_images" in protocol
    told |= {f"data.{k}": json.dumps(v) for k, v in record.data.items() if _counts(k, record, outside)}
    return told


def protocol_lines(condition: str, value: str | None) -> str:
    """A condition as a heading tells it, such as `n = 250`."""
    *before, last = condition.split(".")
    if before[:1] == ["out_images"]:
        name = f"images of {last}"
    elif last in ("sha256", "features"):
        name = f"{before[-1]} {last}"
    else:
        name = TOLD.get(condition, last.replace("_", " "))
    return f"{name} = {'?' if value is None else value.strip(chr(34))}"


def _outside(protocol: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Of the protocol of out-of-distribution detection what the figure of a set, or the mean of a kind of sets, needs.

    How a score is computed is the method's; `near/…` and `far/…` are means over the sets that the protocol lists.
    """
    row, _, column = name.rpartition("/")
    sets = [k for k, kind in protocol["kinds"].items() if kind == row] if row in ("near", "far") else [row]
    kept = {k: protocol.get(k) for k in ("in", "in_images", "weights")}
    kept["out_images"] = {k: v for k, v in protocol["out_images"].items() if k in sets}
    if column.endswith("_chosen"):
        reported = protocol.get("chosen", {}).get("reported_on", {})
        kept["reported_on"] = {k: v for k, v in reported.items() if k in ("in", *sets)}
    return kept


def _named(value: Any, name: str) -> Any:
    """Of a mapping the entry that the figure is named after, if there is one; else all of it."""
    if not isinstance(value, Mapping):
        return value
    row, _, column = name.rpartition("/")
    for key in sorted(map(str, value), key=len, reverse=True):
        of_inception = key == "inception" and column in ("fid", "kid", "is")
        if of_inception or key in row.split("/") or column == key or column.endswith(f"_{key}"):
            return {key: value[key]}
    return value


def _counts(key: str, record: Record, outside_only: bool) -> bool:
    """Whether a setting of the data says which images a figure is about; `outside_only`: training images are not."""
    if key in ORDER or record.data[key] is None:
        return False
    if key == "seed" and not record.data.get("val_fraction") and record.data.get("max_train") is None:
        return False
    if key == "val_fraction" and not record.data[key]:
        return False
    return not (outside_only and key in TRAINING)


def _flat(told: Any, prefix: str = "") -> dict[str, str]:
    """Nested mappings as one, with dots between the names and the values as JSON."""
    if not isinstance(told, Mapping):
        return {prefix.rstrip("."): json.dumps(told)}
    return {k: v for key, value in told.items() for k, v in _flat(value, f"{prefix}{key}.").items()}
