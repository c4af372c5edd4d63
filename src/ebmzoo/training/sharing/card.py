"""The model card of a shared model: data, config, commit, figures with their protocol, samples, limits, licence."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from ebmzoo.errors import plain
from ebmzoo.methods.base.method import Method
from ebmzoo.report.own_files import read_own
from ebmzoo.tasks.base import Result
from ebmzoo.training.config import sections
from ebmzoo.training.record import parameters
from ebmzoo.training.schema import value_at
from ebmzoo.training.sharing.shared_model import CONFIG, PICTURE

NOT_SHOWN = re.compile(r"(.*/)?(seconds|nfe|aupr_\w+|fpr95_\w+)")
"""Figures that a card leaves out: those of a machine, and those that say nearly the same as others."""
NOT_OF_PROTOCOL = ("checkpoint", "intervals", "settings")
"""Entries of a protocol that a card leaves out: a path on the author's machine, and long ones."""


@dataclass(frozen=True)
class Card:
    """What a model card states.

    Args:
        name: The name of the model.
        method: The method, with its weights.
        carried: The checkpoint's own part: config, version, data.
        step: The number of iterations.
        results: The results of tasks on this checkpoint, by name.
        training: The record of the run's cost; empty where there is none.
        how: The option of `ebmzoo sample` that loads the model.
        licence: The identifier of the licence of the weights; None where none is given.
        commit: The commit of ebmzoo that trained it; None where it is not known.
        notes: Sentences for the limits.
    """

    name: str
    method: Method
    carried: Mapping[str, Any]
    step: int
    results: Mapping[str, Result]
    training: Mapping[str, Any]
    how: str
    licence: str | None = None
    commit: str | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    def text(self) -> str:
        """The card, in Markdown, behind the metadata that the hub reads."""
        kind = type(self.method)
        parts = [
            f"---\n{yaml.safe_dump(self.metadata(), sort_keys=False, allow_unicode=True)}---",
            f"# {self.name}",
            f"{kind.__name__}: {kind.paper}" if kind.paper else f"A {kind.__name__}.",
            f"![samples]({PICTURE})",
            f"64 samples of seed 0, not selected: `ebmzoo sample {self.how} --n 64 --out samples.png`.",
            f"## Data\n\n{self._data()}",
            f"## Training\n\n{self._training()}",
            f"## Figures\n\n{self._figures()}",
            "## Limits\n\n" + "\n".join(f"- {sentence}" for sentence in self._limits()),
            f"## Licence\n\n{self._licence()}",
        ]
        return "\n\n".join(parts) + "\n"

    def metadata(self) -> dict[str, Any]:
        """The front matter: the fields of the hub's model cards, with the figures as `model-index`."""
        data = self._data_name()
        task = {"type": "unconditional-image-generation", "name": "image generation"}
        metrics = [
            {"type": f"{name}/{figure}", "value": value}
            for name, result in self.results.items()
            for figure, value in shown(result).items()
        ]
        found: dict[str, Any] = {"license": self.licence} if self.licence else {}
        found |= {"library_name": "ebmzoo", "pipeline_tag": task["type"]}
        found |= {"tags": ["ebmzoo", "energy-based-model", type(self.method).__name__]}
        if metrics:
            results = [{"task": task, "dataset": {"name": data, "type": data}, "metrics": metrics}]
            found["model-index"] = [{"name": self.name, "results": results}]
        return found

    def _data_name(self) -> str:
        record = (self.carried.get("data") or {}).get("record") or {}
        return plain((record.get("train") or {}).get("name") or self._data_class().rpartition(".")[2] or "unknown")

    def _data_class(self) -> str:
        return str(value_at(sections(self.carried["config"]), "data.class_path", ""))

    def _data(self) -> str:
        lines = []
        module, _, name = self._data_class().rpartition(".")
        if module:
            documented = inspect.cleandoc(getattr(import_module(module), name).__doc__ or "").split("\n\n")[0]
            lines += [" ".join(documented.split()), ""]
        for part, record in ((self.carried.get("data") or {}).get("record") or {}).items():
            lines.append(
                f"- {plain(part)}: {record['n']:,} of {plain(record['name'])}, digest {plain(record['digest'])}"
            )
        if classes := (self.carried.get("data") or {}).get("classes"):
            lines.append(f"- classes: {', '.join(map(plain, classes[:20]))}{', …' if len(classes) > 20 else ''}")
        return "\n".join(lines).strip() or "Not recorded."

    def _training(self) -> str:
        counts = parameters(self.method)
        config = sections(self.carried["config"])
        lines = [
            f"- config: [{CONFIG}]({CONFIG}); `ebmzoo fit --config {CONFIG}` trains such a model again",
            f"- ebmzoo {plain(self.carried.get('version'))}, commit {self.commit or 'not stated'}",
            f"- {self.step:,} iterations, seed {plain(config.get('seed_everything'))}",
            f"- parameters: {', '.join(f'{name} {count:,}' for name, count in counts.items())}",
        ]
        if isinstance(seconds := self.training.get("seconds"), int | float):
            device = f"{self.training.get('devices')} × {plain(self.training.get('device'))}"
            lines.append(f"- {seconds / 60:.0f} minutes on {device}, {self.training.get('threads')} threads")
        averaged = "the exponential moving averages" if len(self.method._averages) else "those of the last iteration"
        lines.append(f"- the weights are {averaged}; there is no state of an optimizer")
        return "\n".join(lines)

    def _figures(self) -> str:
        if not self.results:
            return "None: the run has no results of `ebmzoo test` for this checkpoint."
        rows = [
            f"| {name} | {figure} | {value:.4g} |"
            for name, result in self.results.items()
            for figure, value in shown(result).items()
        ]
        parts = ["| task | figure | value |\n| --- | --- | --- |\n" + "\n".join(rows)]
        for name, result in self.results.items():
            protocol = {key: value for key, value in result.protocol.items() if key not in NOT_OF_PROTOCOL}
            text = yaml.safe_dump(protocol, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
            parts.append(f"The protocol of {name}, as docs/scorecard.md of ebmzoo explains it:\n\n```yaml\n{text}```")
        return "\n\n".join(parts)

    def _limits(self) -> list[str]:
        channels, height, width = self.method.image_shape
        density = "Its density p(x) ∝ exp(−E(x)) is known up to a constant only."
        return [
            *self.notes,
            f"It makes images of {channels}×{height}×{width} (channels, height, width) like those of its training set, "
            "and its energy and scores mean nothing for other images.",
            "It is one training run: another seed gives other figures, and none of theirs is known from this one.",
            "A figure with the name of a feature extractor compares only with figures of the same extractor, n, split "
            "and protocol.",
            density if self.method.has_density else "Its energy only compares images, and is that of no density.",
            "It has no state of its training, so that `ebmzoo fit` cannot go on from it.",
        ]

    def _licence(self) -> str:
        if self.licence is None:
            return "None is stated for the weights."
        return f"The weights: {self.licence}. The training images have a licence of their own."


def shown(result: Result) -> dict[str, float]:
    """The figures of a result that a card shows, to six digits."""
    kept = {name: value for name, value in result.figures.items() if not NOT_SHOWN.fullmatch(name)}
    return {name: float(f"{value:.6g}") for name, value in kept.items() if math.isfinite(value)}


def results_of(folder: Path, digest: str) -> tuple[dict[str, Result], list[str]]:
    """The results in a run's `test` folder that are of a checkpoint's averaged weights, and the names of the others.

    Args:
        folder: The folder.
        digest: The first digits of the checkpoint's SHA-256, as protocols state them.
    """
    found, others = {}, []
    for path in sorted(folder.glob("*.json")):
        result = _result(path)
        if result is None:
            continue
        same = result.protocol.get("checkpoint_sha256") == digest and result.protocol.get("weights") == "ema"
        if same:
            found[plain(result.task)] = result
        else:
            others.append(path.name)
    return found, others


def _result(path: Path) -> Result | None:
    return read_own(path, lambda _: Result.read(path))
