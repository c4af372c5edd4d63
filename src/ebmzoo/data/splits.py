"""The split of images that come without one, by their content; and the names that folders of splits have."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Literal

from ebmzoo.errors import UserError

Split = Literal["train", "val", "test"]
NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""The names of a split's folder, in lower case; folders may be spelled in any case."""
TEST_PART = 0.1
"""The fraction of images without splits that becomes the test set."""


def digest(content: bytes) -> bytes:
    """Return what the split of an image depends on: the SHA-256 digest of its file, or of its pixels in an array."""
    return sha256(content).digest()


def by_content(digests: Sequence[bytes]) -> list[Split]:
    """Return `train` or `test` for each of two or more images, decided by its own digest alone.

    An image is in the test set if its digest, as a fraction of the largest one, is below `TEST_PART`. So adding,
    removing or renaming files moves no other image from one set to the other, and copies of an image are together.
    Where no digest is that small, the smallest is the test set.
    """
    shares = [int.from_bytes(each[:8], "big") / 2**64 for each in digests]
    limit = max(TEST_PART, min(shares) + 2**-53)
    tests = [share < limit for share in shares]
    if all(tests):  # copies of one image, or two images of small digests
        tests = [k == 0 for k in range(len(tests))]
    return ["test" if test else "train" for test in tests]


def named_splits(folders: set[str], source: str) -> dict[str, Split]:
    """Return the split of each folder that is named after one; an empty dictionary if there are no splits.

    Args:
        folders: The names of the top folders.
        source: The name of the source in errors.

    Raises:
        UserError: If two folders have the same split, or one of the training and the test set is missing.
    """
    found = {folder: NAMES[folder.casefold()] for folder in sorted(folders) if folder.casefold() in NAMES}
    splits = set(found.values())
    if not splits & {"train", "test"}:
        return {}
    for split in sorted(splits):
        same = [folder for folder, named in found.items() if named == split]
        if len(same) > 1:
            raise UserError(
                f"{source}: the folders {' and '.join(same)} are both the {split} set: merge them, or rename one"
            )
    for split in ("train", "test"):
        if split not in splits:
            names = " and ".join(f"{folder}/" for folder in found)
            raise UserError(
                f"{source}: there are images in {names} but none in {split}/; there must be both a train and a test "
                "folder, or neither"
            )
    return found
