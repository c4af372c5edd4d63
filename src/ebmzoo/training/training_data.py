"""The data that a run was trained on, which its checkpoints state, so that a later command can compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.plane import PlaneData
from ebmzoo.errors import UserError, plain, plain_content


@dataclass(frozen=True)
class TrainingData:
    """The data that a run was trained on, as its checkpoints state it.

    Args:
        record: `record()` of the data module; None where it is not known.
        classes: The names of the classes that labels index.
        images: A digest of each training image, `(N,)` int64; None for data that are not images.
    """

    record: Mapping[str, Any] | None = None
    classes: tuple[str, ...] | None = None
    images: Tensor | None = None

    @classmethod
    def of(cls, data: LightningDataModule | None) -> TrainingData:
        """The training data of a data module; unknown for one of another kind than ebmzoo's."""
        if isinstance(data, ImageData):
            return cls(data.record(), data.training_classes[0], data.train_set.image_digests)
        return cls(data.record(), data.classes) if isinstance(data, PlaneData) else cls()

    @classmethod
    def read(cls, carried: Mapping[str, Any]) -> TrainingData:
        """The data that a checkpoint's `KEY` states; unknown in one of version 0.1.0."""
        found = carried.get("data") or {}
        classes = found.get("classes")
        names = None if classes is None else tuple(map(plain, classes))
        return cls(plain_content(found.get("record")), names, found.get("images"))

    def saved(self) -> dict[str, Any]:
        """What a checkpoint carries."""
        classes = None if self.classes is None else list(self.classes)
        return {"record": self.record, "classes": classes, "images": self.images}

    def change(self, now: TrainingData) -> str | None:
        """A sentence about what is different `now`; None if the training data are the same, or either is unknown."""
        if self.record is None or now.record is None or self.record["train"] == now.record["train"]:
            return None
        before, after = self.record["train"], now.record["train"]
        return (
            f"the run was trained on {before['n']} of {before['name']} (digest {before['digest']}), and the training "
            f"set is now {after['n']} of {after['name']} (digest {after['digest']})"
        )

    def warnings(self, data: LightningDataModule) -> list[str]:
        """Sentences for a test on `data`: that the training data have changed, or that test images were trained on."""
        found = [change] if (change := self.change(TrainingData.of(data))) else []
        if isinstance(data, ImageData) and self.images is not None:
            seen = int(torch.isin(data.test_set.image_digests, self.images).sum())
            if seen:
                found.append(f"the run was trained on {seen} of the {len(data.test_set)} test images, to the pixel")
        return found

    def check_classes(self, classes: tuple[str, ...]) -> None:
        """Check that labels index the same names as in training, for a model that was trained with classes.

        Raises:
            UserError: The names or their order are others.
        """
        if self.classes is not None and self.classes != classes:
            raise UserError(
                f"data: the model was trained with the classes {', '.join(self.classes)}, and the data has "
                f"{', '.join(classes)}, in this order: name its folders as in training"
            )
