"""The handwritten digits that are part of scikit-learn: real images without a download."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.images import ImageSet, shuffled
from ebmzoo.errors import UserError
from ebmzoo.reading import read_bytes

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
        values, labels = _read()
        images = torch.from_numpy(values).mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
        classes = tuple(str(digit) for digit in range(10))
        everything = ImageSet(images, torch.from_numpy(labels).long(), classes, self.name).take(
            shuffled(len(images), 0)
        )
        return everything.take(slice(TRAIN)), everything.take(slice(TRAIN, None))


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Return the grey levels `(N, 64)` float64 and the digits `(N,)` int64, as scikit-learn's `load_digits` does.

    Its file is read without scikit-learn itself, whose import would take longer than all else that the digits need.
    """
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise UserError("the digits need scikit-learn, which is missing: pip install 'ebmzoo[all]'")
    path = Path(spec.origin).with_name("datasets") / "data" / "digits.csv.gz"
    if path.is_file():
        rows = np.loadtxt(gzip.decompress(read_bytes(path)).decode("ascii").splitlines(), delimiter=",")
        return rows[:, :-1], rows[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    return values, labels
