"""Out-of-distribution sets from the test images of other data sets, at the size and colours of the model's own data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from torchvision import datasets

from ebmzoo.data.datamodule import ImageData, OutOfDistribution
from ebmzoo.data.decode import Frame, decode, reframe
from ebmzoo.data.faces import read_celeba
from ebmzoo.data.folder import read_images
from ebmzoo.data.image_files import entry
from ebmzoo.data.images import ImageSet, unlabelled
from ebmzoo.data.layout import ALL
from ebmzoo.data.ood import positive, some
from ebmzoo.data.torchvision_sets import MNIST, fetch, padded, read_cifar, read_mnist, read_svhn


class PublishedTest(OutOfDistribution, ABC):
    """The test images of a published data set, converted to the size and colours of the model's data.

    Args:
        root: The folder that contains the data set, or where it is downloaded to.
        download: Whether to download missing files.
        n: The number of images, chosen at random; null for all.
        seed: Seed of the choice.

    Raises:
        UserError: If `n` is below 1; on use, if the data set is missing or damaged.
    """

    def __init__(self, root: str = "datasets", download: bool = True, n: int | None = None, seed: int = 0) -> None:
        self.root = root
        self.download = download
        self.n = positive(n)
        self.seed = seed

    @abstractmethod
    def read(self, like: ImageData) -> ImageSet:
        """Read the whole test set, at any size and in any colours."""

    def load(self, like: ImageData) -> ImageSet:
        """Return the chosen images in the shape of `like`."""
        chosen = some(self.read(like), self.n, self.seed)
        if chosen.images.shape[1:] == (like.channels, like.size, like.size):
            return chosen
        images = reframe(chosen.images.permute(0, 2, 3, 1), Frame(like.size, like.channels))
        return ImageSet(images, chosen.labels, chosen.classes, chosen.name)


class CIFAR10Test(PublishedTest):
    """The 10,000 test images of CIFAR-10."""

    name, near_to = "CIFAR-10", ("CIFAR-100",)

    def read(self, like: ImageData) -> ImageSet:
        """Read the test set from `root`."""
        return read_cifar(datasets.CIFAR10, self.root, False, self.download)


class CIFAR100Test(PublishedTest):
    """The 10,000 test images of CIFAR-100."""

    name, near_to = "CIFAR-100", ("CIFAR-10",)

    def read(self, like: ImageData) -> ImageSet:
        """Read the test set from `root`."""
        return read_cifar(datasets.CIFAR100, self.root, False, self.download)


class SVHNTest(PublishedTest):
    """The 26,032 test images of SVHN."""

    name = "SVHN"

    def read(self, like: ImageData) -> ImageSet:
        """Read the test set from `root`."""
        return read_svhn(self.root, False, self.download)


class MNISTTest(PublishedTest):
    """The 10,000 test images of MNIST, with the black pixels that the model's data has if it is `FashionMNIST`.

    >>> from ebmzoo.data import Digits
    >>> MNISTTest().is_near(Digits())
    False
    """

    name, near_to = "MNIST", ("Fashion-MNIST",)

    def read(self, like: ImageData) -> ImageSet:
        """Read the test set from `root`."""
        return beside(read_mnist(datasets.MNIST, self.root, False, self.download), like)


class FashionMNISTTest(PublishedTest):
    """The 10,000 test images of Fashion-MNIST, with the black pixels that the model's data has if it is `MNIST`."""

    name, near_to = "Fashion-MNIST", ("MNIST",)

    def read(self, like: ImageData) -> ImageSet:
        """Read the test set from `root`."""
        return beside(read_mnist(datasets.FashionMNIST, self.root, False, self.download), like)


def beside(found: ImageSet, like: ImageData) -> ImageSet:
    """Return 28×28 images padded as those of `like`, so that only their content differs; others are unchanged."""
    if not isinstance(like, MNIST):
        return found
    return ImageSet(padded(found.images, like.size), found.labels, found.classes, found.name)


class CelebATest(PublishedTest):
    """The 19,962 test images of CelebA, the central 140×140 as in CLEL."""

    name = "CelebA"

    def read(self, like: ImageData) -> ImageSet:
        """Read the test set from `root`."""
        return read_celeba(self.root, False, like.size, "clel", "Smiling", self.download)


class Textures(PublishedTest):
    """The 1,880 test images of Describable Textures (Cimpoi et al., 2014): the unscaled top left corner, as in CLEL."""

    name = "textures"

    def read(self, like: ImageData) -> ImageSet:
        """Read the test set from `root`."""
        folder = Path(self.root).expanduser()
        textures = fetch(
            "Describable Textures",
            lambda download: datasets.DTD(folder, "test", download=download),
            folder / "dtd",
            "dtd-r1.0.1.tar.gz",
            download=self.download,
        )
        files = [Path(file) for file in textures._image_files]
        frame = Frame(like.size, like.channels, "top_left")
        _, images = decode(map(entry, files), frame, max_gib=float("inf"))
        return unlabelled(images, self.name)


class ImagesFrom(OutOfDistribution):
    """Images of your own, in the layout of `ImageFolder`: the test images, or all images if there are no splits.

    Args:
        path: The folder, archive or `.npz` file.
        name: The name in tables.
        n: The number of images, chosen at random; null for all.
        seed: Seed of the choice.
        max_gib: The most memory in GiB that the images may take.

    Raises:
        UserError: If `n` is below 1; on use, if the images cannot be read.
    """

    def __init__(self, path: str, name: str, n: int | None = None, seed: int = 0, max_gib: float = 8.0) -> None:
        self.path = path
        self.name = name
        self.n = positive(n)
        self.seed = seed
        self.max_gib = max_gib

    def load(self, like: ImageData) -> ImageSet:
        """Return the chosen images in the shape of `like`."""
        sets = read_images(self.path, Frame(like.size, like.channels), max_gib=self.max_gib)
        chosen = some(sets["test"] if "test" in sets else sets[ALL], self.n, self.seed)
        return ImageSet(chosen.images, chosen.labels, chosen.classes, self.name)
