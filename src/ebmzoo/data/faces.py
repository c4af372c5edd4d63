"""CelebA with the crops that the papers use."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torchvision import datasets

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.decode import Frame, decode
from ebmzoo.data.image_files import entry
from ebmzoo.data.images import Attributes, ImageSet
from ebmzoo.data.torchvision_sets import fetch
from ebmzoo.errors import UserError

FaceCrop = Literal["dual_mcmc", "clel", "drl"]
BOXES: dict[FaceCrop, tuple[int, int, int, int]] = {
    "dual_mcmc": (15, 40, 163, 188),
    "clel": (19, 39, 159, 179),
    "drl": (0, 20, 178, 198),
}
"""Left, upper, right and lower edge in the aligned 178×218 image. FIDs of different crops are not comparable."""


def read_celeba(root: str, train: bool, size: int, crop: FaceCrop, attribute: str, download: bool) -> ImageSet:
    """Return CelebA (Liu et al., 2015), aligned, cropped and scaled to 3×`size`×`size`.

    Args:
        root: The folder that contains `celeba/img_align_celeba` and CelebA's lists.
        train: Whether to read the training or the test split.
        size: Side of the images in pixels.
        crop: Which square of the 178×218 image is used.
        attribute: The attribute that is the label.
        download: Whether to download missing files.

    Raises:
        UserError: If files are missing or damaged, or `attribute` is not one of the 40.
    """
    folder, split = Path(root).expanduser(), "train" if train else "test"
    read = fetch(
        "CelebA",
        lambda download: datasets.CelebA(folder, split, download=download),
        folder / "celeba",
        "the unzipped img_align_celeba with list_eval_partition.txt, list_attr_celeba.txt, identity_CelebA.txt, "
        "list_bbox_celeba.txt and list_landmarks_align_celeba.txt",
        download=download,
    )
    names = tuple(name for name in read.attr_names if name)
    if attribute not in names:
        raise UserError(f"attribute: {attribute!r} must be one of CelebA's: {', '.join(names)}")
    files = [folder / "celeba" / "img_align_celeba" / file for file in read.filename]
    frame = Frame(size, 3, box=BOXES[crop])
    _, images = decode(map(entry, files), frame, max_gib=float("inf"))
    attributes = Attributes(names, tuple((f"not {name}", name) for name in names), read.attr.to(torch.int64))
    labels = attributes.column(attribute)
    return ImageSet(images, labels, (f"not {attribute}", attribute), "CelebA", attributes)


class CelebA(ImageData):
    """CelebA (Liu et al., 2015): 162,770 + 19,962 aligned faces, each with 40 `attributes`.

    Args:
        root: The folder that contains `celeba/img_align_celeba` and CelebA's lists, or where they are downloaded to.
        size: Side of the images in pixels; at 64 they take 2.1 GiB.
        crop: Which square of the 178×218 image is used: `dual_mcmc` 148×148 (box 15, 40, 163, 188), `clel` the central
            140×140, `drl` all but the 20 topmost and bottommost rows.
        attribute: The attribute that is the label, one of CelebA's 40.
        download: Whether to download missing files (needs the package gdown).
        **common: Arguments of `ImageData`.
    """

    name, channels, n_train = "CelebA", 3, 162_770

    def __init__(
        self,
        root: str = "datasets",
        size: int = 64,
        crop: FaceCrop = "dual_mcmc",
        attribute: str = "Smiling",
        download: bool = True,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.root = root
        self.size = size
        self.download = download
        self.crop: FaceCrop = crop
        self.attribute = attribute

    def load(self) -> tuple[ImageSet, ImageSet]:
        """Read the training and the test images from `root`."""
        train, test = (
            read_celeba(self.root, part, self.size, self.crop, self.attribute, self.download) for part in (True, False)
        )
        return train, test
