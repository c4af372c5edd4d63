"""Published data sets that torchvision provides, read from disk or downloaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import datasets

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.decode import Frame
from ebmzoo.data.downloads import not_stalling, not_to_be_written
from ebmzoo.data.folder import read_images
from ebmzoo.data.image_files import first_line
from ebmzoo.data.images import ImageSet
from ebmzoo.data.layout import ALL
from ebmzoo.data.sources import TAR, ZIP, check_no_devices
from ebmzoo.data.splits import NAMES
from ebmzoo.errors import UserError

T = TypeVar("T")
DIGITS = tuple(str(digit) for digit in range(10))
SIDE = 28
"""Side of the images of MNIST and Fashion-MNIST."""


def fetch(name: str, read: Callable[[bool], T], place: Path, archive: str, *, download: bool) -> T:
    """Return the result of `read`, and turn every failure of torchvision into one sentence.

    Args:
        name: The name of the data set.
        read: A function that opens it with torchvision, and may download it if its argument is true.
        place: The folder where torchvision looks for the archive.
        archive: The name of the archive.
        download: Whether the user wants it to be downloaded.

    Raises:
        UserError: If the data set is missing or damaged, with the file that is needed and its folder.
    """
    refusal = not_to_be_written(place)
    check_no_devices(place)
    try:
        with not_stalling():
            return read(download and refusal is None)
    # Missing networks, wrong checksums, broken archives and truncated pickles raise many kinds of errors.
    except Exception as error:
        reason = first_line(error)
        if (place / archive).exists():
            raise UserError(f"{name}: {place / archive} is damaged or incomplete ({reason}): replace it") from error
        if not download:
            raise UserError(f"{name} is not in {place}: put {archive} there or set download: true") from error
        if refusal is not None:
            raise UserError(f"{name} is not in {place}, and {refusal}: put {archive} there") from error
        raise UserError(f"{name} could not be downloaded ({reason}): put {archive} in {place}") from error


def _opened(kind: Callable[..., T], folder: Path, part: bool | str, download: bool) -> T:
    return kind(folder, part, download=download)


def read_cifar(kind: type[Any], root: str, train: bool, download: bool) -> ImageSet:
    """Read CIFAR-10 or CIFAR-100 (Krizhevsky, 2009), 3×32×32; `kind` is torchvision's class."""
    name, folder = {datasets.CIFAR10: "CIFAR-10", datasets.CIFAR100: "CIFAR-100"}[kind], Path(root).expanduser()
    read = fetch(
        name, lambda download: kind(folder, train, download=download), folder, kind.filename, download=download
    )
    images = torch.from_numpy(np.ascontiguousarray(read.data.transpose(0, 3, 1, 2)))
    return ImageSet(images, torch.tensor(read.targets), tuple(read.classes), name)


def read_svhn(root: str, train: bool, download: bool) -> ImageSet:
    """Read the cropped digits of SVHN (Netzer et al., 2011), 3×32×32."""
    folder, split = Path(root).expanduser(), "train" if train else "test"
    file = f"{split}_32x32.mat"
    read = fetch(
        "SVHN", lambda download: datasets.SVHN(folder, split, download=download), folder, file, download=download
    )
    return ImageSet(torch.from_numpy(np.ascontiguousarray(read.data)), torch.from_numpy(read.labels), DIGITS, "SVHN")


def read_mnist(kind: type[Any], root: str, train: bool, download: bool) -> ImageSet:
    """Read MNIST (LeCun et al., 1998) or Fashion-MNIST (Xiao et al., 2017), 1×28×28; `kind` is torchvision's class."""
    name, folder = {datasets.MNIST: "MNIST", datasets.FashionMNIST: "Fashion-MNIST"}[kind], Path(root).expanduser()
    place, first = folder / kind.__name__ / "raw", kind.resources[0 if train else 2][0]
    read = fetch(name, partial(_opened, kind, folder, train), place, first, download=download)
    classes = tuple(label.partition(" - ")[0] for label in kind.classes)  # torchvision calls a seven "7 - seven"
    return ImageSet(read.data[:, None], read.targets.long(), classes, name)


def padded(images: Tensor, size: int) -> Tensor:
    """Return uint8 images `(N, 1, 28, 28)` as `(N, 1, size, size)`, with black pixels around them."""
    return F.pad(images, [(size - images.shape[-1]) // 2] * 4)


class CIFAR10(ImageData):
    """CIFAR-10 (Krizhevsky, 2009): 50,000 + 10,000 images in 10 classes, 32×32.

    Args:
        root: The folder that contains `cifar-10-python.tar.gz`, or where it is downloaded to.
        download: Whether to download missing files.
        **common: Arguments of `ImageData`.
    """

    name, size, channels, n_train = "CIFAR-10", 32, 3, 50_000

    def __init__(self, root: str = "datasets", download: bool = True, **common: Any) -> None:
        super().__init__(**common)
        self.root = root
        self.download = download

    def load(self) -> tuple[ImageSet, ImageSet]:
        """Read the training and the test images from `root`."""
        train, test = (read_cifar(datasets.CIFAR10, self.root, part, self.download) for part in (True, False))
        return train, test


class CIFAR100(ImageData):
    """CIFAR-100 (Krizhevsky, 2009): 50,000 + 10,000 images in 100 classes, 32×32.

    >>> data = CIFAR100(root="datasets", batch_size=64)  # read, or downloaded, on first use
    >>> data.size, data.channels
    (32, 3)

    Args:
        root: The folder that contains `cifar-100-python.tar.gz`, or where it is downloaded to.
        download: Whether to download missing files.
        **common: Arguments of `ImageData`.
    """

    name, size, channels, n_train = "CIFAR-100", 32, 3, 50_000

    def __init__(self, root: str = "datasets", download: bool = True, **common: Any) -> None:
        super().__init__(**common)
        self.root = root
        self.download = download

    def load(self) -> tuple[ImageSet, ImageSet]:
        """Read the training and the test images from `root`."""
        train, test = (read_cifar(datasets.CIFAR100, self.root, part, self.download) for part in (True, False))
        return train, test


class SVHN(ImageData):
    """SVHN (Netzer et al., 2011): 73,257 + 26,032 house-number digits, 32×32, which must not be flipped.

    Args:
        root: The folder that contains `train_32x32.mat` and `test_32x32.mat`, or where they are downloaded to.
        download: Whether to download missing files.
        **common: Arguments of `ImageData`.
    """

    name, size, channels, n_train = "SVHN", 32, 3, 73_257

    def __init__(self, root: str = "datasets", download: bool = True, **common: Any) -> None:
        super().__init__(**common)
        self.root = root
        self.download = download

    def load(self) -> tuple[ImageSet, ImageSet]:
        """Read the training and the test images from `root`."""
        train, test = (read_svhn(self.root, part, self.download) for part in (True, False))
        return train, test


class MNIST(ImageData):
    """MNIST (LeCun et al., 1998): 60,000 + 10,000 handwritten digits, 28×28 in grey, which must not be flipped.

    >>> data = MNIST("datasets", size=32, batch_size=64)  # read, or downloaded, on first use
    >>> data.size, data.channels
    (32, 1)

    Args:
        path: The folder that contains torchvision's files in `MNIST/raw`, or where they are downloaded to. Or the
            images in another form, which is read as it is: an `.npz` file, an archive, or a folder with `train` and
            `test`, in the layout of `ImageFolder`.
        size: 28, or 32 for the same images with two black pixels on each side, which networks can halve further.
        download: Whether to download missing files.
        **common: Arguments of `ImageData`.

    Raises:
        UserError: If `size` is another one; on use, if the images are missing or damaged.
    """

    name, channels, n_train = "MNIST", 1, 60_000
    source: type[Any] = datasets.MNIST
    """Torchvision's class."""

    def __init__(self, path: str = "datasets", size: int = 28, download: bool = True, **common: Any) -> None:
        super().__init__(**common)
        if size not in (SIDE, SIDE + 4):
            raise UserError(f"size: {size} must be {SIDE}, or {SIDE + 4} for images with two black pixels on each side")
        self.path = path
        self.size = size
        self.download = download

    def load(self) -> tuple[ImageSet, ImageSet]:
        """Read the training and the test images from `path`."""
        train, test = self._read()
        return self._framed(train), self._framed(test)

    def _read(self) -> tuple[ImageSet, ImageSet]:
        if not in_other_form(Path(self.path).expanduser(), self.source):
            train, test = (read_mnist(self.source, self.path, part, self.download) for part in (True, False))
            return train, test
        sets = read_images(self.path, Frame(SIDE, self.channels))
        if ALL in sets:
            raise UserError(f"path: {self.path} has no training and test sets: use ebmzoo.data.ImageFolder for it")
        return sets["train"], sets["test"]

    def _framed(self, images: ImageSet) -> ImageSet:
        names = tuple(label.partition(" - ")[0] for label in self.source.classes)
        numbered = images.classes == tuple(map(str, range(len(images.classes)))) and len(images.classes) <= len(names)
        classes = names if numbered else images.classes
        return ImageSet(padded(images.images, self.size), images.labels, classes, self.name)


class FashionMNIST(MNIST):
    """Fashion-MNIST (Xiao et al., 2017): 60,000 + 10,000 pieces of clothing in 10 classes, 28×28 in grey.

    >>> FashionMNIST(size=32).name
    'Fashion-MNIST'

    The arguments are those of `MNIST`; torchvision's files are in `FashionMNIST/raw`.
    """

    name = "Fashion-MNIST"
    source = datasets.FashionMNIST


def in_other_form(path: Path, source: type[Any]) -> bool:
    """Return True if `path` is a file or has folders of splits, False if it is a place for torchvision's own files."""
    if not path.is_dir():
        return path.exists() or path.name.lower().endswith((".npz", *TAR, *ZIP))
    if (path / source.__name__).is_dir():
        return False
    return any(part.is_dir() and part.name.casefold() in NAMES for part in path.iterdir())
