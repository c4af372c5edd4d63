"""`ebmzoo estimate`: what a config costs in parameters, arithmetic, memory and hours, before anything is run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from jsonargparse._actions import ActionConfigFile
from lightning.pytorch import LightningDataModule, LightningModule

from ebmzoo.commands.arguments import add_run_arguments
from ebmzoo.commands.command_line import prepared
from ebmzoo.commands.data_shape import with_networks_for_data
from ebmzoo.commands.environment import quietly
from ebmzoo.commands.estimate.devices import DEVICES, Device
from ebmzoo.commands.estimate.estimate import Estimate, PlannedRun, estimate
from ebmzoo.commands.estimate.page import FRACTION, table, text
from ebmzoo.commands.estimate.rate import measured
from ebmzoo.commands.parser import Parser
from ebmzoo.data import ImageData, PlaneData
from ebmzoo.errors import UserError
from ebmzoo.reading import read_yaml
from ebmzoo.tasks import Task
from ebmzoo.training.config import ZooParser, as_user_errors, build_model
from ebmzoo.training.config_files import read_config
from ebmzoo.training.config_names import config_paths
from ebmzoo.training.limits import check_fit
from ebmzoo.training.trainer import ZooTrainer

OF_GPU = "bf16-mixed"
"""The precision of the configs that are written for a GPU."""


def main(args: list[str]) -> None:
    """Print the estimate of one config, or the table of all that are written for a GPU."""
    parser = Parser("estimate", "Estimate what a config's run costs, before anything is run.")
    parser.epilog = "Any key of a config can be set too, such as --data.batch_size 64."
    parser.add_argument("--config", help="a config, by its name or the path of its file")
    parser.add_argument("--images", type=int, help="the number of training images, if not the data set's")
    parser.add_argument(
        "--fraction", type=float, default=FRACTION, help="the share of a published rate that is reached (%(default)s)"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--measure", action="store_true", help="the rate of the device at hand, measured now, instead")
    which.add_argument("--table", action="store_true", help="a Markdown table of all configs written for a GPU")
    own, keys = parser.parse_known_args(args[1:])
    if not 0 < own.fraction <= 1:
        raise UserError(f"--fraction is {own.fraction}; it must be above 0 and at most 1")
    if own.images is not None and own.images < 1:
        raise UserError(f"--images is {own.images}; it must be 1 or more")
    if own.table:
        print(table({name: of_config(name) for name in gpu_configs()}, own.fraction))
    elif own.config is None:
        raise UserError("estimate: name a config, such as `ebmzoo estimate --config liebm_cifar`")
    else:
        made = estimate(plan_of(own.config, keys, own.images))
        devices: Sequence[Device] = (measured(),) if own.measure else DEVICES
        print(text(made, devices, 1.0 if own.measure else own.fraction))


def gpu_configs() -> list[str]:
    """The names of the configs that are written for a GPU, without ablations."""
    paths = {name: path for name, path in config_paths().items() if path.parent.name != "ablations"}
    return [name for name, path in paths.items() if read_config(path)["trainer"].get("precision") == OF_GPU]


def of_config(name: str) -> Estimate:
    """The estimate of the training of a config, by its name."""
    return estimate(replace(plan_of(name), tasks=()))


def plan_of(config: str, keys: Sequence[str] = (), images: int | None = None) -> PlannedRun:
    """What a config plans.

    Args:
        config: Its name or the path of its file.
        keys: Options that change keys of the config, such as `--data.batch_size 64`.
        images: The number of training images; None for that of the data set.

    Raises:
        UserError: The config cannot be used, or its data are neither images nor points of the plane.
    """
    with quietly(), tempfile.TemporaryDirectory() as folder:
        line = prepared(["estimate", "--config", config, *keys], Path(folder))
        parser = _config_parser()
        read = parser.parse_args(with_networks_for_data(line, Path(folder))[1:])
        check_fit(read.as_dict())
        content: Mapping[str, Any] = read_yaml(parser.dump(read, skip_unset=False))
        made = ZooParser()
        made.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
        made.add_argument("--tasks", type=list[Task], default=[])
        with as_user_errors(read):
            found = made.instantiate(made.parse_object({key: content[key] for key in ("data", "tasks")}))
    if not isinstance(found.data, ImageData | PlaneData):
        raise UserError(f"data is a {type(found.data).__name__}; an ImageData or a PlaneData is needed")
    build = partial(build_model, yaml.safe_dump({"model": content["model"]}))
    return PlannedRun(build, found.data, found.tasks, content["trainer"], images)


def _config_parser() -> ZooParser:
    parser = ZooParser(prog="ebmzoo estimate")
    parser.add_argument("-c", "--config", action=ActionConfigFile)
    parser.add_argument("--seed_everything", type=bool | int, default=0)
    parser.add_lightning_class_args(ZooTrainer, "trainer")
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
    add_run_arguments(parser)
    return parser
