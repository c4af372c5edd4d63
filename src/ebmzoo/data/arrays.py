"""Image sets in `.npz` files."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebmzoo.data.decode import Frame, Pixels, check_memory, reframe
from ebmzoo.data.image_files import first_line
from ebmzoo.data.images import UNLABELLED, ImageSet
from ebmzoo.data.layout import ALL
from ebmzoo.data.splits import by_content, digest
from ebmzoo.errors import UserError
from ebmzoo.reading import check_regular

MOST_CLASSES = 100_000
"""The largest number of classes: a file with larger labels is taken to be damaged."""
KEYS = {"train": "train_", "val": "val_", "test": "test_", ALL: ""}
"""The prefix of the keys of each split."""


def open_npz(
    path: Path, wanted: Container[str], *, max_gib: float = math.inf
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Return the wanted arrays of the file by name, and the names of all that it has.

    Raises:
        UserError: If the file is damaged or is no regular file, or the wanted arrays contain Python objects, take more
            than `max_gib`, or are larger than this machine's memory.
    """
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as zipped:
            sizes = {member.filename.removesuffix(".npy"): member.file_size for member in zipped.infolist()}
        gib = sum(size for name, size in sizes.items() if name in wanted) / 2**30
        if gib > max_gib:
            raise UserError(f"max_gib: {path} unpacks to {gib:.3g} GiB, more than {max_gib:g}: raise max_gib")
        if gib > (memory := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30):
            raise UserError(f"{path} unpacks to {gib:.3g} GiB, more than this machine's memory of {memory:.3g}")
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files if key in wanted}, list(arrays.files)
    except UserError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError, MemoryError, zlib.error) as error:
        raise UserError(f"{path} is not a readable .npz file of plain arrays ({first_line(error)})") from error


def read_npz(path: Path, frame: Frame, *, max_gib: float, split: bool = False) -> dict[str, ImageSet]:
    """Return the sets `train`, `test` and if there is one `val`, or the single set `ALL`, of an `.npz` file.

    The file has uint8 arrays `train_images`, `test_images` and optionally `val_images`, or `images`, of shape (N, H, W)
    or (N, H, W, C). Labels are optional: integers from 0 in `train_labels`, `test_labels` and `val_labels`, or
    `labels`.

    Args:
        path: The `.npz` file.
        frame: How each image is cropped and scaled.
        max_gib: The most memory that the images of one set may take.
        split: Split the set `ALL` into `train` and `test` by its images' content.

    Raises:
        UserError: If an array is missing or has another shape or type, or the images take too much memory.
    """
    wanted = {f"{prefix}{kind}" for prefix in KEYS.values() for kind in ("images", "labels")}
    arrays, names = open_npz(path, wanted, max_gib=max_gib)
    parts = ["train", "test"] if {"train_images", "test_images"} & arrays.keys() else [ALL]
    if parts != [ALL] and "val_images" in arrays:
        parts.append("val")
    for part in parts:
        if KEYS[part] + "images" not in arrays:
            found = ", ".join(names) or "nothing"
            raise UserError(f"{path} contains {found}; it must contain images, or train_images and test_images")
    labels = {part: _labels(path, arrays, part) for part in parts}
    present = [label for label in labels.values() if label is not None]
    most = max((int(label.max()) for label in present if len(label)), default=0)
    classes = tuple(str(label) for label in range(most + 1)) if present else UNLABELLED
    sets = {}
    for part in parts:
        images = _images(path, arrays, part)
        check_memory(len(images), frame, max_gib)
        label = labels[part]
        label = torch.zeros(len(images), dtype=torch.int64) if label is None else label
        sets[part] = ImageSet(reframe(images, frame), label, classes, path.stem)
    if split and ALL in sets and len(sets[ALL]) > 1:
        of = by_content([digest(image.tobytes()) for image in arrays[KEYS[ALL] + "images"]])
        return {part: sets[ALL].take([k for k, p in enumerate(of) if p == part]) for part in ("train", "test")}
    return sets


def _images(path: Path, arrays: dict[str, NDArray[Any]], part: str) -> Pixels:
    key = KEYS[part] + "images"
    images = arrays[key]
    fits = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] in (1, 3, 4))
    if images.dtype != np.uint8 or not fits or 0 in images.shape:
        found = f"{images.dtype} of shape {images.shape}"
        raise UserError(f"{path}: {key} is {found}; it must be uint8 of shape (N, H, W) or (N, H, W, 1, 3 or 4)")
    return images


def _labels(path: Path, arrays: dict[str, NDArray[Any]], part: str) -> Tensor | None:
    key, shape = KEYS[part] + "labels", arrays[KEYS[part] + "images"].shape
    n = shape[0] if shape else 0
    if key not in arrays:
        return None
    labels = arrays[key]
    if (
        labels.shape != (n,)
        or labels.dtype.kind not in "iu"
        or labels.min(initial=0) < 0
        or labels.max(initial=0) >= MOST_CLASSES
    ):
        found = f"{labels.dtype} of shape {labels.shape}"
        if labels.dtype.kind in "iu" and labels.size:
            found += f" from {labels.min()} to {labels.max()}"
        raise UserError(f"{path}: {key} is {found}; it must be {n} integers from 0, below {MOST_CLASSES}")
    return torch.from_numpy(labels.astype(np.int64))
