"""The data that a checkpoint's config names, for commands that need its images or points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningDataModule

from ebmzoo.data import ImageData
from ebmzoo.data.downloads import downloads_confined
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import ClassConditional
from ebmzoo.methods.base.method import Method
from ebmzoo.training.config import ZooParser, as_user_errors, sections
from ebmzoo.training.training_data import TrainingData
from ebmzoo.training.trust import restricted_imports


def image_data(config: str, trust: bool = False) -> ImageData:
    """The data of a checkpoint's config, which are images.

    Raises:
        UserError: As of `config_data`; or the config has no images.
    """
    data = config_data(config, trust)
    if not isinstance(data, ImageData):
        raise UserError("the checkpoint's config names no image data, whose training images are needed")
    return data


def config_data(config: str, trust: bool = False) -> LightningDataModule | None:
    """The data of a checkpoint's config, None if it names none.

    Raises:
        UserError: They cannot be built, or, without `trust`, the config names a class from outside ebmzoo.
    """
    parser = ZooParser()
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
    section = sections(config).get("data")
    with as_user_errors(), restricted_imports(trust):
        return None if section is None else parser.instantiate(parser.parse_object({"data": section})).data


def data_of_run(carried: Mapping[str, Any], method: Method, trust: bool = False) -> ImageData:
    """The data of a checkpoint's `KEY`, whose classes are those that the method was trained with.

    Raises:
        UserError: As of `image_data`; or the method has classes, and the data now has others or in another order.
    """
    data = image_data(carried["config"], trust)
    with downloads_confined(not trust):
        data.prepare_data()
    if isinstance(method, ClassConditional) and method.classes:
        TrainingData.read(carried).check_classes(data.training_classes[0])
    return data
