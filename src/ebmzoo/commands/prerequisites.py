"""What a run needs first: the checkpoints that its config names, the configs that make them, and their making."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule

from ebmzoo.commands.benchmark.plan import Run
from ebmzoo.commands.benchmark.runner import Command, in_own_process, prepare_runs
from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.images import UNLABELLED
from ebmzoo.errors import UserError
from ebmzoo.tasks.base import Task
from ebmzoo.training.checkpoint import LAST
from ebmzoo.training.config import ZooParser, as_user_errors
from ebmzoo.training.config_files import merged, read_config
from ebmzoo.training.config_names import config_name, config_paths
from ebmzoo.writing import write_whole

NETWORKS = {"encoder_checkpoint": "encoder", "coder_checkpoint": "coder"}
"""The keys of networks that a run starts from, and of the networks themselves."""
NOT_SHARED = ("batch_size", "flip", "ood", "concepts", "val_fraction", "max_train", "seed")
"""The arguments of a data module that say how a run uses its data, not which they are."""


@dataclass(frozen=True)
class Prerequisite:
    """A checkpoint that a config names.

    Args:
        key: The key that names it, such as `model.encoder_checkpoint`.
        path: The file.
        network: The key of the network in the model that is loaded from it, without which no run can start; None for a
            classifier, without which some figures of a test are left out.
    """

    key: str
    path: Path
    network: str | None = None

    @property
    def source(self) -> Path | None:
        """The config that comes with the package and makes it; None where there is none."""
        return source_of(self.path.parent) if self.path.name == LAST else None

    def how(self, config: Mapping[str, Any]) -> str:
        """A sentence about how to make it for the run of `config`."""
        if self.source is None:
            like = {"encoder": "simclr_cifar", "coder": "autoencoder_digits"}.get(
                self.network or "", "classifier_cifar"
            )
            return f"no config that comes with ebmzoo makes it; `ebmzoo fit --config {like}` makes one of its kind"
        if self.is_of_other_data(config):
            return (
                f"`ebmzoo fit --config {config_name(self.source)}` makes it of other data than this run's; with "
                "--prepare, `ebmzoo fit` first makes one of this run's own"
            )
        return (
            f"`ebmzoo fit --config {config_name(self.source)}` makes it, and so does `ebmzoo fit` with --prepare, first"
        )

    def is_of_other_data(self, config: Mapping[str, Any]) -> bool:
        """Whether its config's data are others than those of the run of `config`."""
        assert self.source is not None
        own, its = config.get("data") or {}, read_config(self.source).get("data") or {}
        if own.get("class_path") != its.get("class_path"):
            return True
        a, b = own.get("init_args") or {}, its.get("init_args") or {}
        return any(a[key] != b[key] for key in ("path", "root", "size", "channels", "crop") if key in a and key in b)


@cache
def source_of(run_dir: Path) -> Path | None:
    """The config that comes with the package whose runs are in a folder; None where there is none."""
    line = f"run_dir: {run_dir.as_posix()}"  # not parsed, of 200 files at the start of a run: a test holds each to it
    return next((path for path in config_paths().values() if line in path.read_text("utf-8").splitlines()), None)


def prerequisites(config: Mapping[str, Any]) -> list[Prerequisite]:
    """The checkpoints that a resolved config names, each file once."""
    found: dict[Path, Prerequisite] = {}
    for key in ("model", "tasks"):
        for each in _named(config.get(key), key):
            found.setdefault(each.path, each)
    return list(found.values())


def _named(node: Any, at: str) -> Iterator[Prerequisite]:
    if isinstance(node, Mapping):
        classifier = str(node.get("class_path")).endswith(".ClassifierFeatures")
        for key, value in node.get("init_args", node).items():
            if isinstance(value, str) and (key in NETWORKS or (classifier and key == "checkpoint")):
                yield Prerequisite(f"{at}.{key}", Path(value), NETWORKS.get(key))
            else:
                yield from _named(value, f"{at}.{key}")
    elif isinstance(node, list | tuple):
        for child in node:
            yield from _named(child, at)


def missing_sentences(config: Mapping[str, Any]) -> list[str]:
    """Sentences about the classifiers that a config names and that are not there."""
    lacking = [each for each in prerequisites(config) if each.network is None and not each.path.is_file()]
    return [f"{each.path}: {each.how(config)}" for each in lacking if each.source is not None]


def check_networks_exist(config: Mapping[str, Any]) -> None:
    """Check that the networks which a run starts from are there.

    Raises:
        UserError: One is not; the sentence names its key and what makes it.
    """
    for each in prerequisites(config):
        if each.network is not None and not each.path.is_file():
            raise UserError(f"{each.key}: {each.path}: no such file; {each.how(config)}")


def prepare(
    config: Mapping[str, Any],
    starts_anew: bool,
    command: Command = in_own_process,
    report: Callable[[str], None] = print,
) -> dict[str, str]:
    """Make what the run of a resolved config needs and is not there, each in its own process, by the package's configs.

    On data of one's own it is made of them, with the run's own network, in a folder that names them. Several processes
    may prepare at once: the first makes each checkpoint and the others wait.

    Args:
        config: The resolved config.
        starts_anew: Whether the run starts from the networks that its config names; a resumed one holds them.
        command: What runs `ebmzoo`.
        report: What prints a sentence.

    Returns:
        The checkpoints that take the places of others in the config.

    Raises:
        UserError: One cannot be made.
    """
    made: dict[str, str] = {}
    data: LightningDataModule | None = None
    for each in prerequisites(config):
        source = each.source
        if source is None or (each.network is not None and not starts_anew):
            continue
        if not each.is_of_other_data(config):
            if not each.path.is_file():
                prepare_runs([Run(config_name(source), source, each.path.parent)], command, report)
            continue
        data = data or _data(config["data"])
        if not isinstance(data, ImageData):
            report(f"{each.key}: it is not made of {type(data).__name__}, which has no images")
            continue
        if each.network is None and data.classes == UNLABELLED:
            report(f"{each.key}: the images of {data.name} have no classes, so that no classifier is made of them")
            continue
        own = _of_own_data(each, config, data)
        run_dir = Path(own["run_dir"])
        if not (run_dir / LAST).is_file():
            written = run_dir / "prepare.yaml"
            write_whole(written, yaml.safe_dump(own, sort_keys=False, allow_unicode=True))
            prepare_runs([Run(f"{config_name(source)} of {data.name}", written, run_dir)], command, report)
        made[str(each.path)] = str(run_dir / LAST)
    return made


def _of_own_data(prerequisite: Prerequisite, config: Mapping[str, Any], data: ImageData) -> dict[str, Any]:
    """The config that makes it of a run's own data; its folder names the data and their digest."""
    assert prerequisite.source is not None
    base = read_config(prerequisite.source)
    train, model = data.train_set, base["model"]["init_args"]
    name = f"{re.sub(r'[^A-Za-z0-9_-]+', '_', data.name)}_{train.digest[:8]}"
    arguments = {key: x for key, x in (config["data"].get("init_args") or {}).items() if key not in NOT_SHARED}
    batch = min(int((base["data"].get("init_args") or {}).get("batch_size", 128)), len(train))
    changed: dict[str, Any] = {}
    if prerequisite.network is None:
        changed = {
            "in_channels": data.channels,
            "size": data.size,
            "num_classes": len(data.classes),
            "name": f"{model.get('name', 'classifier')}_{name}",
            "crop_padding": min(int(model.get("crop_padding", 0)), data.size - 1),
        }
    else:
        changed = {prerequisite.network: config["model"]["init_args"][prerequisite.network]}
    base["data"] = {"class_path": config["data"]["class_path"], "init_args": arguments | {"batch_size": batch}}
    base["run_dir"] = f"{base['run_dir']}_{name}"
    base["trainer"]["accelerator"] = (config.get("trainer") or {}).get("accelerator", "auto")
    found: dict[str, Any] = merged(base, {"model": {"init_args": changed}})
    return found


def _data(section: Mapping[str, Any]) -> LightningDataModule:
    parser = ZooParser()
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
    with as_user_errors():
        data: LightningDataModule = parser.instantiate(parser.parse_object({"data": dict(section)})).data
    return data


def with_paths(node: Any, replaced: Mapping[str, str]) -> None:
    """Put other checkpoints into a parsed config, in place, where it names those that are `replaced`."""
    if isinstance(node, Namespace):
        for key, value in vars(node).items():
            if isinstance(value, str) and value in replaced and (key in NETWORKS or key == "checkpoint"):
                setattr(node, key, replaced[value])
            else:
                with_paths(value, replaced)
    elif isinstance(node, Mapping):
        for key, value in list(node.items()):
            if isinstance(value, str) and value in replaced and isinstance(node, dict):
                node[key] = replaced[value]
            else:
                with_paths(value, replaced)
    elif isinstance(node, list | tuple):
        for child in node:
            with_paths(child, replaced)


def lacking(tasks: Iterable[Task]) -> list[str]:
    """What tasks lack, such as a classifier, each in one sentence that names the tasks."""
    found: dict[str, list[str]] = {}
    for task in tasks:
        for sentence in task.missing():
            found.setdefault(sentence, []).append(task.name)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in found.items()]
