"""Images of your own: a folder, an archive or an `.npz` file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from ebmzoo.data.arrays import read_npz
from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.decode import Frame, decode
from ebmzoo.data.images import ImageSet, shuffled
from ebmzoo.data.layout import ALL, layout
from ebmzoo.data.sources import IMAGES, existing, image_files
from ebmzoo.errors import UserError

TEST_PART = 0.1
"""The fraction of a set without splits that becomes the test set."""


def read_images(path: str | Path, frame: Frame, *, max_gib: float = 8.0) -> dict[str, ImageSet]:
    """Return the sets `train` and `test`, or the single set `ALL` (""), of a folder, an archive or an `.npz` file.

    The images of each set are in a random order, the same at every call, so that the first n are a random sample.

    Args:
        path: The folder, archive or `.npz` file.
        frame: How each image is cropped and scaled.
        max_gib: The most memory that the images may take.

    Raises:
        UserError: If there is no image, a file is damaged, or the images take too much memory.
    """
    source = existing(path)
    if source.suffix == ".npz":
        sets = read_npz(source, frame, max_gib=max_gib)
    else:
        names, images = decode(image_files(source), frame, max_gib=max_gib)
        if not names:
            raise UserError(
                f"path: {source} contains no image files; their names must end in one of {', '.join(IMAGES)}"
            )
        # Archives and folders list their files in different orders: sorting by name makes them equal.
        order = sorted(range(len(names)), key=names.__getitem__)
        plan = layout([names[i] for i in order], str(source))
        labels, name = torch.tensor(plan.labels), source.name.split(".")[0]
        sets = {}
        for part in sorted({split for split in plan.splits if split is not None}):
            chosen = [k for k, split in enumerate(plan.splits) if split == part]
            sets[part] = ImageSet(images[[order[k] for k in chosen]], labels[chosen], plan.classes, name)
    return {part: images_of.take(shuffled(len(images_of), 0)) for part, images_of in sets.items()}


class ImageFolder(ImageData):
    """Images of your own, read into memory on first use.

    A folder, or an archive of one (.tar, .tar.gz, .tar.xz, .tar.bz2, .zip; nothing is extracted to disk), contains
    `train/<class>/…` and `test/<class>/…`. The class folders are optional, and so are `train` and `test`: without them
    a fixed random tenth of the images is the test set. Classes are sorted by name. An `.npz` file contains uint8 arrays
    `train_images` and `test_images`, or `images`, of shape (N, H, W) or (N, H, W, C), and optionally `train_labels` and
    `test_labels`, or `labels`.

    Args:
        path: The folder, archive or `.npz` file.
        size: Side of the square images that the model takes; others are scaled (bicubic, antialiased).
        channels: 3 for RGB, 1 for grey; transparent pixels become white.
        crop: `centre` keeps the central square, `none` squeezes the whole image into the square.
        max_gib: The most memory in GiB that the images may take.
        **common: Arguments of `ImageData`.

    Raises:
        UserError: If a number is out of its range.
    """

    def __init__(
        self,
        path: str,
        size: int,
        channels: int = 3,
        crop: Literal["centre", "none"] = "centre",
        max_gib: float = 8.0,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.path = path
        self.size = size
        self.channels = channels
        self.max_gib = max_gib
        self.frame = Frame(size, channels, crop)
        self.name = Path(path).name.split(".")[0]

    def load(self) -> tuple[ImageSet, ImageSet]:
        """Read the images of `path`.

        Raises:
            UserError: If there are fewer than two images, a file is damaged, or they take too much memory.
        """
        sets = read_images(self.path, self.frame, max_gib=self.max_gib)
        if ALL not in sets:
            return sets["train"], sets["test"]
        everything = sets[ALL]
        tests = max(1, round(TEST_PART * len(everything)))
        if len(everything) == 1:
            raise UserError(f"path: {self.path} contains 1 image; a training and a test set need 2 or more")
        return everything.take(slice(tests, None)), everything.take(slice(tests))


class CelebAHQ256(ImageData):
    """CelebA-HQ at 256×256 (Karras et al., 2018): a folder or archive of its 30,000 images, of any size.

    Without `train` and `test` folders a fixed random tenth of the images is the test set.

    Args:
        path: The folder or archive.
        max_gib: The most memory in GiB that the images may take; all 30,000 take 5.5 GiB.
        **common: Arguments of `ImageData`.
    """

    name, size, channels = "CelebA-HQ", 256, 3

    def __init__(self, path: str = "datasets/celeba_hq", max_gib: float = 8.0, **common: Any) -> None:
        super().__init__(**common)
        self.folder = ImageFolder(path, self.size, self.channels, max_gib=max_gib)

    def load(self) -> tuple[ImageSet, ImageSet]:
        """Read the images of `path`."""
        return self.folder.load()
