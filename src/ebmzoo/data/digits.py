"""The digits that come with scikit-learn: real images without a download."""

from __future__ import annotations

import torch

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.images import ImageSet, shuffled
from ebmzoo.errors import UserError

TRAIN = 1500


class Digits(ImageData):
    """1,797 handwritten digits, 8×8 in grey (Alpaydin and Kaynak, 1998): 1,500 to train on and 297 to test.

    The split is random and always the same, since scikit-learn's order goes from writer to writer. The 17 grey levels
    v = 0..16 become round(255 v / 16). Its arguments are those of every image data set.
    """

    name, size, channels = "digits", 8, 1

    def load(self) -> tuple[ImageSet, ImageSet]:
        """The digits, from the installed scikit-learn."""
        try:
            from sklearn.datasets import load_digits
        except ModuleNotFoundError as error:
            raise UserError("the digits come with scikit-learn, which is missing: pip install 'ebmzoo[all]'") from error
        values, labels = load_digits(return_X_y=True)
        images = torch.from_numpy(values).mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
        classes = tuple(str(digit) for digit in range(10))
        everything = ImageSet(images, torch.from_numpy(labels).long(), classes, self.name).take(
            shuffled(len(images), 0)
        )
        return everything.take(slice(TRAIN)), everything.take(slice(TRAIN, None))
