"""The handwritten digits that are part of scikit-learn: real images without a download."""

from __future__ import annotations

import torch

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.images import ImageSet, shuffled
from ebmzoo.errors import UserError

TRAIN = 1500
"""The number of training images."""


class Digits(ImageData):
    """1,797 handwritten digits (Alpaydin and Kaynak, 1998), 8×8 in grey: 1,500 training and 297 test images.

    The split is random but always the same, since scikit-learn's order is by writer. The 17 grey levels v = 0..16
    become round(255 v / 16). The arguments are those of `ImageData`.
    """

    name, size, channels, n_train = "digits", 8, 1, TRAIN

    def load(self) -> tuple[ImageSet, ImageSet]:
        """Read the digits from the installed scikit-learn.

        Raises:
            UserError: If scikit-learn is not installed.
        """
        try:
            from sklearn.datasets import load_digits
        except ModuleNotFoundError as error:
            raise UserError("the digits need scikit-learn, which is missing: pip install 'ebmzoo[all]'") from error
        values, labels = load_digits(return_X_y=True)
        images = torch.from_numpy(values).mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
        classes = tuple(str(digit) for digit in range(10))
        everything = ImageSet(images, torch.from_numpy(labels).long(), classes, self.name).take(
            shuffled(len(images), 0)
        )
        return everything.take(slice(TRAIN)), everything.take(slice(TRAIN, None))
