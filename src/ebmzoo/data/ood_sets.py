"""Out-of-distribution sets that are the test images of other data sets, at the size and colours of the model's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from torchvision import datasets

from ebmzoo.data.datamodule import ImageData, OutOfDistribution
from ebmzoo.data.decode import Frame, decode, reframe
from ebmzoo.data.faces import read_celeba
from ebmzoo.data.folder import read_images
from ebmzoo.data.images import ImageSet, unlabelled
from ebmzoo.data.layout import ALL
from ebmzoo.data.ood import positive, some
from ebmzoo.data.torchvision_sets import fetch, read_cifar, read_mnist, read_svhn


class PublishedTest(OutOfDistribution, ABC):
    """The test images of a published data set, scaled and converted to those of the model's data.

    Args:
        root: The folder that holds the data set, or is to.
        download: Whether to download what is missing.
        n: How many images, at random; null for all.
        seed: Of the choice.

    Raises:
        UserError: If `n` is no number of images; from `load`, if the data set is missing or damaged.
    """

    def __init__(self, root: str = "datasets", download: bool = True, n: int | None = None, seed: int = 0) -> None:
        self.root, self.download, self.n, self.seed = root, download, positive(n), seed

    @abstractmethod
    def read(self, like: ImageData) -> ImageSet:
        """The whole test set, at any size and in any colours."""

    def load(self, like: ImageData) -> ImageSet:
        """The chosen images, in the shape of `like`."""
        chosen = some(self.read(like), self.n, self.seed)
        if chosen.images.shape[1:] == (like.channels, like.size, like.size):
            return chosen
        images = reframe(chosen.images.permute(0, 2, 3, 1), Frame(like.size, like.channels))
        return ImageSet(images, chosen.labels, chosen.classes, chosen.name)


class CIFAR10Test(PublishedTest):
    """The 10,000 test images of CIFAR-10, for models of other data."""

    name, near_to = "CIFAR-10", ("CIFAR-100",)

    def read(self, like: ImageData) -> ImageSet:
        """From `root`."""
        return read_cifar(datasets.CIFAR10, self.root, False, self.download)


class CIFAR100Test(PublishedTest):
    """The 10,000 test images of CIFAR-100."""

    name, near_to = "CIFAR-100", ("CIFAR-10",)

    def read(self, like: ImageData) -> ImageSet:
        """From `root`."""
        return read_cifar(datasets.CIFAR100, self.root, False, self.download)


class SVHNTest(PublishedTest):
    """The 26,032 test images of SVHN."""

    name = "SVHN"

    def read(self, like: ImageData) -> ImageSet:
        """From `root`."""
        return read_svhn(self.root, False, self.download)


class MNISTTest(PublishedTest):
    """The 10,000 test images of MNIST."""

    name, near_to = "MNIST", ("Fashion-MNIST",)

    def read(self, like: ImageData) -> ImageSet:
        """From `root`."""
        return read_mnist(datasets.MNIST, self.root, False, self.download)


class FashionMNISTTest(PublishedTest):
    """The 10,000 test images of Fashion-MNIST."""

    name, near_to = "Fashion-MNIST", ("MNIST",)

    def read(self, like: ImageData) -> ImageSet:
        """From `root`."""
        return read_mnist(datasets.FashionMNIST, self.root, False, self.download)


class CelebATest(PublishedTest):
    """The 19,962 test images of CelebA, the central 140×140 as in CLEL."""

    name = "CelebA"

    def read(self, like: ImageData) -> ImageSet:
        """From `root`."""
        return read_celeba(self.root, False, like.size, "clel", "Smiling", self.download)


class Textures(PublishedTest):
    """The 1,880 test images of Describable Textures (Cimpoi et al., 2014): the unscaled top left corner, as in CLEL."""

    name = "textures"

    def read(self, like: ImageData) -> ImageSet:
        """From `root`."""
        folder = Path(self.root).expanduser()
        found = fetch(
            "Describable Textures",
            lambda: datasets.DTD(folder, "test", download=self.download),
            folder / "dtd",
            "dtd-r1.0.1.tar.gz",
            download=self.download,
        )
        files = [Path(file) for file in found._image_files]
        frame = Frame(like.size, like.channels, "top_left")
        _, images = decode(((str(file), file.read_bytes) for file in files), frame, max_gib=float("inf"))
        return unlabelled(images, self.name)


class ImagesFrom(OutOfDistribution):
    """Your own images, laid out as for `ImageFolder`: its test images, or all where nothing is split.

    Args:
        path: The folder, archive or `.npz` file.
        name: What tables call them.
        n: How many images, at random; null for all.
        seed: Of the choice.
        max_gib: Refuse more images than fit in this much memory.

    Raises:
        UserError: If `n` is no number of images; from `load`, if the images cannot be read.
    """

    def __init__(self, path: str, name: str, n: int | None = None, seed: int = 0, max_gib: float = 8.0) -> None:
        self.path, self.name, self.n, self.seed, self.max_gib = path, name, positive(n), seed, max_gib

    def load(self, like: ImageData) -> ImageSet:
        """The chosen images, in the shape of `like`."""
        sets = read_images(self.path, Frame(like.size, like.channels), max_gib=self.max_gib)
        chosen = some(sets["test"] if "test" in sets else sets[ALL], self.n, self.seed)
        return ImageSet(chosen.images, chosen.labels, chosen.classes, self.name)
