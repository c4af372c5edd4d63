"""Data modules of images and of points in the plane, out-of-distribution sets, and masks."""

from ebmzoo.data.datamodule import ImageData, OutOfDistribution, prepare
from ebmzoo.data.digits import Digits
from ebmzoo.data.faces import CelebA
from ebmzoo.data.folder import CelebAHQ256, ImageFolder
from ebmzoo.data.image_range import ImageRange
from ebmzoo.data.imagenet32 import ImageNet32
from ebmzoo.data.images import Attributes, ImageSet, to_float, to_uint8
from ebmzoo.data.lsun import LSUNChurch
from ebmzoo.data.masks import CentralSquare, FromFile, Half, Mask, Scribbles
from ebmzoo.data.ood import (
    ConstantColours,
    InterpolatedImages,
    Inverted,
    PermutedPixels,
    UniformNoise,
)
from ebmzoo.data.ood_sets import (
    CelebATest,
    CIFAR10Test,
    CIFAR100Test,
    FashionMNISTTest,
    ImagesFrom,
    MNISTTest,
    SVHNTest,
    Textures,
)
from ebmzoo.data.plane import Checkerboard, PlaneData, PointSet
from ebmzoo.data.plane_mixtures import GaussianMixture, Moons, Rings
from ebmzoo.data.shapes import Shapes
from ebmzoo.data.torchvision_sets import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "SVHN",
    "Attributes",
    "CIFAR10Test",
    "CIFAR100Test",
    "CelebA",
    "CelebAHQ256",
    "CelebATest",
    "CentralSquare",
    "Checkerboard",
    "ConstantColours",
    "Digits",
    "FashionMNIST",
    "FashionMNISTTest",
    "FromFile",
    "GaussianMixture",
    "Half",
    "ImageData",
    "ImageFolder",
    "ImageNet32",
    "ImageRange",
    "ImageSet",
    "ImagesFrom",
    "InterpolatedImages",
    "Inverted",
    "LSUNChurch",
    "MNISTTest",
    "Mask",
    "Moons",
    "OutOfDistribution",
    "PermutedPixels",
    "PlaneData",
    "PointSet",
    "Rings",
    "SVHNTest",
    "Scribbles",
    "Shapes",
    "Textures",
    "UniformNoise",
    "prepare",
    "to_float",
    "to_uint8",
]
