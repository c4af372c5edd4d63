"""Image sets in `.npz` files."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebmzoo.data.decode import Frame, Pixels, check_memory, first_line, reframe
from ebmzoo.data.images import UNLABELLED, ImageSet
from ebmzoo.data.layout import ALL
from ebmzoo.errors import UserError

MOST_CLASSES = 100_000
KEYS = {"train": "train_", "test": "test_", ALL: ""}


def open_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of the file, by name; a UserError if it is damaged or holds Python objects."""
    try:
        with zipfile.ZipFile(path) as zipped:
            gib = sum(member.file_size for member in zipped.infolist()) / 2**30
        if gib > (memory := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30):
            raise UserError(f"{path} unpacks to {gib:.3g} GiB, more than this machine's memory of {memory:.3g}")
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except UserError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError, MemoryError, zlib.error) as error:
        raise UserError(f"{path} is not a readable .npz file of plain arrays ({first_line(error)})") from error


def read_npz(path: Path, frame: Frame, *, max_gib: float) -> dict[str, ImageSet]:
    """The sets `train` and `test`, or the one set `ALL`, of an `.npz` file.

    It holds uint8 arrays `train_images` and `test_images`, or `images`, of shape (N, H, W) or (N, H, W, C), and where
    there are labels also `train_labels` and `test_labels`, or `labels`: whole numbers from 0.

    Raises:
        UserError: If an array is missing or has another shape or type.
    """
    arrays = open_npz(path)
    parts = ["train", "test"] if {"train_images", "test_images"} & arrays.keys() else [ALL]
    for part in parts:
        if KEYS[part] + "images" not in arrays:
            found = ", ".join(arrays) or "nothing"
            raise UserError(f"{path}: found {found}, but images, or train_images and test_images, are needed")
    labels = {part: _labels(path, arrays, part) for part in parts}
    given = [label for label in labels.values() if label is not None]
    most = max((int(label.max()) for label in given if len(label)), default=0)
    classes = tuple(str(label) for label in range(most + 1)) if given else UNLABELLED
    sets = {}
    for part in parts:
        images = _images(path, arrays, part)
        check_memory(len(images), frame, max_gib)
        label = labels[part]
        label = torch.zeros(len(images), dtype=torch.int64) if label is None else label
        sets[part] = ImageSet(reframe(images, frame), label, classes, path.stem)
    return sets


def _images(path: Path, arrays: dict[str, NDArray[Any]], part: str) -> Pixels:
    key = KEYS[part] + "images"
    images = arrays[key]
    fits = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] in (1, 3, 4))
    if images.dtype != np.uint8 or not fits or 0 in images.shape:
        found = f"{images.dtype} of shape {images.shape}"
        raise UserError(f"{path}: {key} is {found}, but uint8 of shape (N, H, W) or (N, H, W, 1 or 3) is needed")
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
        raise UserError(f"{path}: {key} is {found}, but {n} whole numbers from 0, below {MOST_CLASSES}, are needed")
    return torch.from_numpy(labels.astype(np.int64))
