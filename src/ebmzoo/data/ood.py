"""Out-of-distribution sets that are synthetic or derived from the model's own test images."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData, OutOfDistribution
from ebmzoo.data.images import ImageSet, shuffled, unlabelled
from ebmzoo.errors import UserError


def positive(n: int | None) -> int | None:
    """Return `n`, a number of images or None.

    Raises:
        UserError: If `n` is below 1.
    """
    if n is not None and n < 1:
        raise UserError(f"n: {n} must be 1 or more, or null for all")
    return n


def some(images: ImageSet, n: int | None, seed: int) -> ImageSet:
    """Return `n` images chosen at random, or all in their order if `n` is None or not less than their number."""
    return images if n is None or n >= len(images) else images.take(shuffled(len(images), seed)[:n])


class ConstantColours(OutOfDistribution):
    """Each image is one colour, uniform on {0..255}^C.

    Args:
        n: The number of images; null for as many as the test set has.
        seed: Seed of the colours.

    Raises:
        UserError: If `n` is below 1.
    """

    name = "constant"

    def __init__(self, n: int | None = None, seed: int = 0) -> None:
        self.n = positive(n)
        self.seed = seed

    def load(self, like: ImageData) -> ImageSet:
        """Return images of one colour each, in the shape of `like`."""
        n = self.n or len(like.test_set)
        colours = _uniform((n, like.channels, 1, 1), self.seed)
        return unlabelled(colours.expand(-1, -1, like.size, like.size).contiguous(), self.name)


class UniformNoise(OutOfDistribution):
    """Each value of each pixel is uniform on {0..255}.

    Args:
        n: The number of images; null for as many as the test set has.
        seed: Seed of the noise.

    Raises:
        UserError: If `n` is below 1.
    """

    name = "uniform"

    def __init__(self, n: int | None = None, seed: int = 0) -> None:
        self.n = positive(n)
        self.seed = seed

    def load(self, like: ImageData) -> ImageSet:
        """Return noise in the shape of `like`."""
        n = self.n or len(like.test_set)
        return unlabelled(_uniform((n, like.channels, like.size, like.size), self.seed), self.name)


class InterpolatedImages(OutOfDistribution):
    """x = (x_i + x_{i+offset}) / 2 of the model's own test images, halves rounded up (Lee et al., CLEL, 2023).

    Args:
        offset: The distance of the two images in the order of the test set.
        n: The number of images, chosen at random; null for all.
        seed: Seed of the choice.

    Raises:
        UserError: If a number is below 1; on use, if there are too few test images for `offset`.
    """

    name = "interpolation"

    def __init__(self, offset: int = 100, n: int | None = None, seed: int = 0) -> None:
        if offset < 1:
            raise UserError(f"offset: {offset} must be 1 or more")
        self.offset = offset
        self.n = positive(n)
        self.seed = seed

    def load(self, like: ImageData) -> ImageSet:
        """Return the means of pairs of test images."""
        x = like.test_set.images.int()
        if len(x) <= self.offset:
            raise UserError(
                f"offset: {self.offset} is too much for the {len(x)} test images of {like.name}; it must be smaller"
            )
        mean = (x[: -self.offset] + x[self.offset :] + 1) // 2
        return some(unlabelled(mean.to(torch.uint8), self.name), self.n, self.seed)

    def is_near(self, like: ImageData) -> bool:
        """Return True: it is derived from the data itself."""
        return True


class Inverted(OutOfDistribution):
    """x' = 255 − x of the model's own test images.

    Args:
        n: The number of images, chosen at random; null for all.
        seed: Seed of the choice.

    Raises:
        UserError: If `n` is below 1.
    """

    name = "inverted"

    def __init__(self, n: int | None = None, seed: int = 0) -> None:
        self.n = positive(n)
        self.seed = seed

    def load(self, like: ImageData) -> ImageSet:
        """Return the negatives of test images."""
        return some(unlabelled(255 - like.test_set.images, self.name), self.n, self.seed)


class PermutedPixels(OutOfDistribution):
    """The model's own test images with the pixels of each permuted at random: its colours without its structure.

    Args:
        n: The number of images, chosen at random; null for all.
        seed: Seed of the choice and of the permutations.

    Raises:
        UserError: If `n` is below 1.
    """

    name = "permuted"

    def __init__(self, n: int | None = None, seed: int = 0) -> None:
        self.n = positive(n)
        self.seed = seed

    def load(self, like: ImageData) -> ImageSet:
        """Return the permuted images."""
        x = some(like.test_set, self.n, self.seed).images.flatten(2)
        generator = torch.Generator().manual_seed(self.seed)
        moved = torch.stack([image[:, torch.randperm(image.shape[1], generator=generator)] for image in x])
        return unlabelled(moved.view(-1, like.channels, like.size, like.size), self.name)


def _uniform(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
