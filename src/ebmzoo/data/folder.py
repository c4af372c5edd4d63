"""Your own images: a folder, an archive or an `.npz` file."""

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


def read_images(path: str | Path, frame: Frame, *, max_gib: float = 8.0) -> dict[str, ImageSet]:
    """The sets `train` and `test`, or the one set `ALL` (""), of a folder, an archive or an `.npz` file.

    The images of each set are in a random order, the same at every call, so that its first n are a fair sample of it.

    Raises:
        UserError: If there is no image, a file is damaged, or all are too many for memory.
    """
    source = existing(path)
    if source.suffix == ".npz":
        sets = read_npz(source, frame, max_gib=max_gib)
    else:
        names, images = decode(image_files(source), frame, max_gib=max_gib)
        if not names:
            raise UserError(
                f"path: {source} has no image files in it, files of the kinds {', '.join(IMAGES)} are needed"
            )
        # Archives come in any order, a folder in its own: the order of the names is the same for all.
        order = sorted(range(len(names)), key=names.__getitem__)
        plan = layout([names[i] for i in order], str(source))
        labels, name = torch.tensor(plan.labels), source.name.split(".")[0]
        sets = {}
        for part in sorted({split for split in plan.splits if split is not None}):
            chosen = [k for k, split in enumerate(plan.splits) if split == part]
            sets[part] = ImageSet(images[[order[k] for k in chosen]], labels[chosen], plan.classes, name)
    return {part: found.take(shuffled(len(found), 0)) for part, found in sets.items()}


class ImageFolder(ImageData):
    """Images of your own, read into memory when first needed.

    A folder, or an archive of one (.tar, .tar.gz, .tar.xz, .tar.bz2, .zip; nothing is extracted), holds
    `train/<class>/…` and `test/<class>/…`; the class folders may be left out, and so may `train` and `test`: then a
    fixed random tenth is the test set. Classes are sorted by name. An `.npz` file holds uint8 arrays `train_images` and
    `test_images`, or `images`, of shape (N, H, W) or (N, H, W, C), and where there are labels also `train_labels` and
    `test_labels`, or `labels`.

    Args:
        path: The folder, archive or `.npz` file.
        size: Side of the square images that the model sees; others are scaled (bicubic, antialiased).
        channels: 3 for RGB, 1 for grey; what is transparent becomes white.
        crop: `centre` keeps the middle square, `none` squeezes the whole image into the square.
        max_gib: Refuse more images than fit in this much memory.
        **common: As of every image data set.

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
        self.path, self.size, self.channels, self.max_gib = path, size, channels, max_gib
        self.frame = Frame(size, channels, crop)
        self.name = Path(path).name.split(".")[0]

    def load(self) -> tuple[ImageSet, ImageSet]:
        """The files under `path`."""
        sets = read_images(self.path, self.frame, max_gib=self.max_gib)
        if ALL not in sets:
            return sets["train"], sets["test"]
        everything = sets[ALL]
        tests = max(1, round(TEST_PART * len(everything)))
        if len(everything) == 1:
            raise UserError(f"path: {self.path} has 1 image in it, 2 or more are needed for a training and a test set")
        return everything.take(slice(tests, None)), everything.take(slice(tests))


class CelebAHQ256(ImageData):
    """CelebA-HQ at 256×256 (Karras et al., 2018): a folder or archive of its 30,000 images, at any size.

    Without `train` and `test` folders a fixed random tenth is the test set.

    Args:
        path: The folder or archive.
        max_gib: Refuse more images than fit in this much memory; all 30,000 take 5.5.
        **common: As of every image data set.
    """

    name, size, channels = "CelebA-HQ", 256, 3

    def __init__(self, path: str = "datasets/celeba_hq", max_gib: float = 8.0, **common: Any) -> None:
        super().__init__(**common)
        self.folder = ImageFolder(path, self.size, self.channels, max_gib=max_gib)

    def load(self) -> tuple[ImageSet, ImageSet]:
        """The files under `path`."""
        return self.folder.load()
