"""The conditions under which a figure was measured, and those that must agree within one column."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ebmzoo.report.comparison.records import Record

NOT_CONDITIONS = {
    *("seed", "seeds", "checkpoint", "checkpoint_sha256", "model", "versions", "settings", "steps", "sets"),
    *("chains", "latent_chain", "auroc_score_of_seeds", "intervals", "chosen"),
    *(
        "temperature",
        "reverse",
        "reverse_chains",
        "refuted",
        "crossed",
        "left_out",
        "trace",
        "decoder_sigma",
        "importance_samples",
    ),
}
"""Entries of a protocol that may differ within a column, because they belong to the method or are results.

NFE, temperature and start of a chain are the method's own, and are shown beside its figures. `settings` repeat other
entries of the protocol, and describe the pictures.
"""
MACHINE = ("device", "devices", "threads", "precision")
"""Conditions of seconds only."""
ORDER = ("batch_size", "flip", "ood", "concepts", "download")
"""Settings of the data that do not change the images of an evaluation."""
TRAINING = ("max_train", "val_fraction", "seed")
"""Settings of the data that select training images."""
CONDITION_NAMES = {
    "n": "n",
    "real_images": "real images",
    "in": "inside",
    "in_images": "images inside",
    "data": "test images of",
    "data.class": "data",
    "sets.train": "training set",
    "sets.test": "test set",
    "image_range": "range",
}
"""Names of conditions in headings."""


def conditions(key: str, record: Record) -> dict[str, str]:
    """The conditions, name to value, in which runs must agree for the figure `<task>/…` to share a column.

    Of several extractors or classifiers only the one in the name of the figure counts, if there is one. NFE and the
    number of parameters have no conditions.
    """
    task, _, name = key.partition("/")
    column = name.rpartition("/")[2]
    if task == "training":
        return _flat({k: record.training.get(k) for k in MACHINE}) if "seconds" in column else {}
    if column.startswith("nfe"):
        return {}
    protocol: Mapping[str, Any] = record.results[task]["protocol"]
    if "out_images" in protocol:
        kept = _ood_conditions(protocol, name)
    else:
        kept = {k: _own_entry(v, name) for k, v in protocol.items() if k not in NOT_CONDITIONS and k not in MACHINE}
    if column.startswith("seconds"):
        kept = {k: v for k, v in kept.items() if k != "extractors"} | {k: protocol.get(k) for k in MACHINE}
    found = _flat(kept)
    outside = "out_images" in protocol
    if (sets := protocol.get("sets")) is not None:
        return found | _sets(sets, name, protocol.get("kinds", {}))
    # Results of version 0.1.0 do not say what was tested: the settings of the run's data stand for it.
    return found | {f"data.{k}": json.dumps(v) for k, v in record.data.items() if _counts(k, record, outside)}


def _sets(sets: Mapping[str, Any], name: str, kinds: Mapping[str, str]) -> dict[str, str]:
    """The data that a figure rests on; of out-of-distribution sets that of the figure, or those of its mean."""
    found = {f"sets.{split}": _set_text(sets[split]) for split in ("train", "test") if split in sets}
    row = name.rpartition("/")[0]
    chosen = [key for key in sets.get("out", {}) if key == row or kinds.get(key) == row]
    return found | {f"sets.out.{key}": _set_text(sets["out"][key]) for key in chosen}


def _set_text(entry: Mapping[str, Any]) -> str:
    return f"{entry['n']} of {entry['name']} ({entry['digest'][:6]})" if "digest" in entry else "missing"


def condition_text(condition: str, value: str | None) -> str:
    """A condition as it appears in a heading, such as `n = 250`."""
    *before, last = condition.split(".")
    if before[:1] == ["out_images"]:
        name = f"images of {last}"
    elif before == ["sets", "out"]:
        name = f"the set {last}"
    elif last in ("sha256", "features"):
        name = f"{before[-1]} {last}"
    else:
        name = CONDITION_NAMES.get(condition, last.replace("_", " "))
    return f"{name} = {'?' if value is None else value.strip(chr(34))}"


def _ood_conditions(protocol: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The conditions of out-of-distribution detection for the figure of a set, or for the mean over a kind of sets.

    The computation of a score belongs to the method; `near/…` and `far/…` are means over the sets in the protocol.
    """
    row, _, column = name.rpartition("/")
    sets = [k for k, kind in protocol["kinds"].items() if kind == row] if row in ("near", "far") else [row]
    kept = {k: protocol.get(k) for k in ("in", "in_images", "weights")}
    kept["out_images"] = {k: v for k, v in protocol["out_images"].items() if k in sets}
    if column.endswith("_chosen"):
        reported = protocol.get("chosen", {}).get("reported_on", {})
        kept["reported_on"] = {k: v for k, v in reported.items() if k in ("in", *sets)}
    return kept


def _own_entry(value: Any, name: str) -> Any:
    """The entry of a mapping that the name of the figure contains, if there is one; otherwise the whole mapping."""
    if not isinstance(value, Mapping):
        return value
    row, _, column = name.rpartition("/")
    for key in sorted(map(str, value), key=len, reverse=True):
        of_inception = key == "inception" and column in ("fid", "kid", "is")
        if of_inception or key in row.split("/") or column == key or column.endswith(f"_{key}"):
            return {key: value[key]}
    return value


def _counts(key: str, record: Record, outside_only: bool) -> bool:
    """Whether a setting of the data affects the images of a figure; `outside_only` means no training images."""
    if key in ORDER or record.data[key] is None:
        return False
    if key == "seed" and not record.data.get("val_fraction") and record.data.get("max_train") is None:
        return False
    if key == "val_fraction" and not record.data[key]:
        return False
    return not (outside_only and key in TRAINING)


def _flat(entries: Any, prefix: str = "") -> dict[str, str]:
    """Flatten nested mappings, joining names by dots and writing values as JSON."""
    if not isinstance(entries, Mapping):
        return {prefix.rstrip("."): json.dumps(entries)}
    return {k: v for key, value in entries.items() for k, v in _flat(value, f"{prefix}{key}.").items()}
