"""Images of your own: a folder, an archive or an `.npz` file."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import torch

from ebmzoo.data.arrays import read_npz
from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.decode import Frame
from ebmzoo.data.decoded import decoded
from ebmzoo.data.images import ImageSet, shuffled
from ebmzoo.data.layout import ALL, layout
from ebmzoo.data.sources import existing
from ebmzoo.data.splits import by_content
from ebmzoo.errors import UserError, plain


def read_images(
    path: str | Path, frame: Frame, *, max_gib: float = 8.0, split: bool = False, cache: bool = True
) -> dict[str, ImageSet]:
    """Return the sets `train`, `test` and if there is one `val`, or the set `ALL` (""), of a folder, archive or `.npz`.

    The images of each set are in a random order, the same at every call, so that the first n are a random sample.
    Files that are not images are counted in one line on the standard error stream. The decoded images of a folder or an
    archive are kept for later calls (`ebmzoo.data.decoded`).

    Args:
        path: The folder, archive or `.npz` file.
        frame: How each image is cropped and scaled.
        max_gib: The most memory that the images may take.
        split: Split images without splits into `train` and `test` by their content (`ebmzoo.data.splits`).
        cache: Whether decoded images are kept, and kept ones used; the images are the same.

    Raises:
        UserError: If there is no image, a file is damaged, or the images take too much memory.
    """
    source = existing(path)
    if source.suffix == ".npz":
        sets = read_npz(source, frame, max_gib=max_gib, split=split)
    else:
        sets = _read_files(source, frame, max_gib, split, cache)
    return {part: images_of.take(shuffled(len(images_of), 0)) for part, images_of in sets.items()}


def _read_files(source: Path, frame: Frame, max_gib: float, split: bool, cache: bool) -> dict[str, ImageSet]:
    left_out: Counter[str] = Counter()
    files = decoded(source, frame, left_out, max_gib=max_gib, cache=cache)
    names = files.names
    found = ", ".join(f"{n} {ending}" for ending, n in left_out.most_common())
    if not names:
        raise UserError(
            f"path: {source} contains no image files, such as .png or .jpg"
            + (f"; it contains other files: {found}" if found else "")
        )
    # Archives and folders list their files in different orders: sorting by name makes them equal.
    order = sorted(range(len(names)), key=names.__getitem__)
    plan = layout([names[i] for i in order], str(source))
    labels, name = torch.tensor(plan.labels), plain(source.name.split(".")[0])
    splits = plan.splits
    if unused := splits.count(None):
        found = ", ".join([*([found] if found else []), f"{unused} outside the train, val and test folders"])
    if found:
        print(plain(f"{source}: files left out: {found}"), file=sys.stderr)
    if split and ALL in splits and len(splits) > 1:
        splits = list(by_content([files.digests[i] for i in order]))
    sets = {}
    for part in sorted({split for split in splits if split is not None}):
        chosen = [k for k, of in enumerate(splits) if of == part]
        images = torch.from_numpy(files.images[[order[k] for k in chosen]])  # a copy: what is kept may be deleted
        sets[part] = ImageSet(images, labels[chosen], plan.classes, name)
    return sets


class ImageFolder(ImageData):
    """Images of your own, read into memory on first use.

    A folder, or an archive of one (.tar, .tar.gz, .tar.xz, .tar.bz2, .zip; nothing is extracted to disk), contains
    `train/<class>/…` and `test/<class>/…`, and optionally `val/<class>/…`, which is then the validation set. The class
    folders are optional, and so are the splits: without them about a tenth of the images is the test set, each chosen
    by its own content, so that files which come or go move no other file from one set to the other. Classes are sorted
    by name. An `.npz` file contains uint8 arrays `train_images`, `test_images` and optionally `val_images`, or
    `images`, of shape (N, H, W) or (N, H, W, C), and optionally `train_labels`, `test_labels` and `val_labels`, or
    `labels`.

    Args:
        path: The folder, archive or `.npz` file.
        size: Side of the square images that the model takes; others are scaled (bicubic, antialiased).
        channels: 3 for RGB, 1 for grey; transparent pixels become white.
        crop: `centre` keeps the central square, `none` squeezes the whole image into the square.
        max_gib: The most memory in GiB that the images may take.
        cache: Whether the decoded images of a folder or an archive are kept beside it, or else in the user's cache, so
            that later commands need not decode them again; the images are the same.
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
        cache: bool = True,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.path = path
        self.cache = cache
        self.size = size
        self.channels = channels
        self.max_gib = max_gib
        self.frame = Frame(size, channels, crop)
        self.name = plain(Path(path).name.split(".")[0])
        self._validation: ImageSet | None = None

    def load(self) -> tuple[ImageSet, ImageSet]:
        """Read the images of `path`.

        Raises:
            UserError: If there are fewer than two images, a file is damaged, or they take too much memory.
        """
        sets = read_images(self.path, self.frame, max_gib=self.max_gib, split=True, cache=self.cache)
        if ALL in sets:
            raise UserError(f"path: {self.path} contains 1 image; a training and a test set need 2 or more")
        self._validation = sets.get("val")
        return sets["train"], sets["test"]

    def load_validation(self) -> ImageSet | None:
        """Return the images of the `val` folder, None if there is none."""
        return self._validation


class CelebAHQ256(ImageData):
    """CelebA-HQ at 256×256 (Karras et al., 2018): a folder or archive of its 30,000 images, of any size.

    Without `train` and `test` folders about a tenth of the images, chosen by their content, is the test set, and about
    27,000 are the training set.

    Args:
        path: The folder or archive.
        max_gib: The most memory in GiB that the images may take; all 30,000 take 5.5 GiB.
        cache: Whether the decoded images are kept, as of `ImageFolder`.
        **common: Arguments of `ImageData`.
    """

    name, size, channels, n_train = "CelebA-HQ", 256, 3, 27_000

    def __init__(
        self, path: str = "datasets/celeba_hq", max_gib: float = 8.0, cache: bool = True, **common: Any
    ) -> None:
        super().__init__(**common)
        self.folder = ImageFolder(path, self.size, self.channels, max_gib=max_gib, cache=cache)

    def load(self) -> tuple[ImageSet, ImageSet]:
        """Read the images of `path`."""
        return self.folder.load()

    def load_validation(self) -> ImageSet | None:
        """Return the images of the `val` folder, None if there is none."""
        return self.folder.load_validation()
