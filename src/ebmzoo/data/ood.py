"""Out-of-distribution sets that are made from a model's own data or from nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData, OutOfDistribution
from ebmzoo.data.images import ImageSet, shuffled, unlabelled
from ebmzoo.errors import UserError


def positive(n: int | None) -> int | None:
    """`n`, or a UserError if it is no number of images."""
    if n is not None and n < 1:
        raise UserError(f"n: {n} is not possible, 1 or more is needed, or null for all")
    return n


def some(images: ImageSet, n: int | None, seed: int) -> ImageSet:
    """At most `n` images at random; all, in their order, if `n` is None or not less than their number."""
    return images if n is None or n >= len(images) else images.take(shuffled(len(images), seed)[:n])


class ConstantColours(OutOfDistribution):
    """Each image is one colour, uniform on {0..255}^C.

    Args:
        n: How many images; null for as many as the test set has.
        seed: Of the colours.
    """

    name = "constant"

    def __init__(self, n: int | None = None, seed: int = 0) -> None:
        self.n, self.seed = positive(n), seed

    def load(self, like: ImageData) -> ImageSet:
        """Colours, in the shape of `like`."""
        n = self.n or len(like.test_set)
        colours = _uniform((n, like.channels, 1, 1), self.seed)
        return unlabelled(colours.expand(-1, -1, like.size, like.size).contiguous(), self.name)


class UniformNoise(OutOfDistribution):
    """Each value of each pixel is uniform on {0..255}.

    Args:
        n: How many images; null for as many as the test set has.
        seed: Of the noise.
    """

    name = "uniform"

    def __init__(self, n: int | None = None, seed: int = 0) -> None:
        self.n, self.seed = positive(n), seed

    def load(self, like: ImageData) -> ImageSet:
        """Noise, in the shape of `like`."""
        n = self.n or len(like.test_set)
        return unlabelled(_uniform((n, like.channels, like.size, like.size), self.seed), self.name)


class InterpolatedImages(OutOfDistribution):
    """x = (x_i + x_{i+offset}) / 2 of the model's own test images, halves rounded up (Lee et al., CLEL, 2023).

    Args:
        offset: How far apart the two images are.
        n: How many images, at random; null for all.
        seed: Of the choice.
    """

    name = "interpolation"

    def __init__(self, offset: int = 100, n: int | None = None, seed: int = 0) -> None:
        if offset < 1:
            raise UserError(f"offset: {offset} is not possible, 1 or more is needed")
        self.offset, self.n, self.seed = offset, positive(n), seed

    def load(self, like: ImageData) -> ImageSet:
        """The means of pairs."""
        x = like.test_set.images.int()
        if len(x) <= self.offset:
            raise UserError(f"offset: {self.offset} is too much for the {len(x)} test images of {like.name}")
        mean = (x[: -self.offset] + x[self.offset :] + 1) // 2
        return some(unlabelled(mean.to(torch.uint8), self.name), self.n, self.seed)

    def is_near(self, like: ImageData) -> bool:
        """Near, whatever the data: it is made of them."""
        return True


class Inverted(OutOfDistribution):
    """x = 255 − x of the model's own test images.

    Args:
        n: How many images, at random; null for all.
        seed: Of the choice.
    """

    name = "inverted"

    def __init__(self, n: int | None = None, seed: int = 0) -> None:
        self.n, self.seed = positive(n), seed

    def load(self, like: ImageData) -> ImageSet:
        """The negatives."""
        return some(unlabelled(255 - like.test_set.images, self.name), self.n, self.seed)


class PermutedPixels(OutOfDistribution):
    """The model's own test images, the pixels of each moved about at random: its colours without its structure.

    Args:
        n: How many images, at random; null for all.
        seed: Of the choice and the permutations.
    """

    name = "permuted"

    def __init__(self, n: int | None = None, seed: int = 0) -> None:
        self.n, self.seed = positive(n), seed

    def load(self, like: ImageData) -> ImageSet:
        """The shuffled images."""
        x = some(like.test_set, self.n, self.seed).images.flatten(2)
        generator = torch.Generator().manual_seed(self.seed)
        moved = torch.stack([image[:, torch.randperm(image.shape[1], generator=generator)] for image in x])
        return unlabelled(moved.view(-1, like.channels, like.size, like.size), self.name)


def _uniform(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
