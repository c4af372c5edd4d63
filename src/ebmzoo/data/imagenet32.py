"""ImageNet at 32×32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ebmzoo.data.arrays import open_npz
from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.images import ImageSet
from ebmzoo.errors import UserError

CLASSES = tuple(str(number) for number in range(1, 1001))


class ImageNet32(ImageData):
    """Downsampled ImageNet (Chrabaszcz et al., 2017): 1,281,167 + 50,000 images in 1,000 classes, 32×32, 3.7 GiB.

    Args:
        root: The folder that contains `train_data_batch_1.npz` to `train_data_batch_10.npz` and `val_data.npz`.
        **common: Arguments of `ImageData`.
    """

    name, size, channels, n_train = "ImageNet-32", 32, 3, 1_281_167

    def __init__(self, root: str = "datasets/imagenet32", **common: Any) -> None:
        super().__init__(**common)
        self.root = root

    def load(self) -> tuple[ImageSet, ImageSet]:
        """Read the ten training files, and the validation file as the test set.

        Raises:
            UserError: If a file is missing or has other arrays.
        """
        folder = Path(self.root).expanduser()
        return self._read([folder / f"train_data_batch_{i}.npz" for i in range(1, 11)]), self._read(
            [folder / "val_data.npz"]
        )

    def _read(self, files: list[Path]) -> ImageSet:
        images, labels = [], []
        for file in files:
            if not file.exists():
                raise UserError(f"root: {file} does not exist: put the .npz files of downsampled ImageNet 32×32 there")
            arrays, _ = open_npz(file, ("data", "labels"))
            pixels, numbers = arrays.get("data"), arrays.get("labels")
            fits = (
                pixels is not None and pixels.dtype == np.uint8 and pixels.ndim == 2 and pixels.shape[1] == 3 * 32 * 32
            )
            if pixels is None or numbers is None or not fits:
                raise UserError(f"{file} must have uint8 data of shape (N, 3072) and labels from 1")
            images.append(torch.from_numpy(pixels).view(-1, 3, 32, 32))
            labels.append(torch.from_numpy(numbers.astype(np.int64)) - 1)
        return ImageSet(torch.cat(images), torch.cat(labels), CLASSES, self.name)
