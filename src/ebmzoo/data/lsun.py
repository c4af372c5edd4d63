"""LSUN church_outdoor, read from its lmdb folders."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.decode import Frame, decode
from ebmzoo.data.image_files import MOST_BYTES, Entry, first_line
from ebmzoo.data.images import ImageSet, unlabelled
from ebmzoo.errors import UserError
from ebmzoo.reading import check_regular

HOME = "https://github.com/fyu/lsun"


def lmdb_files(folder: Path) -> Iterator[Entry]:
    """Yield every image of an lmdb folder under its key, in the order of the keys.

    Raises:
        UserError: If the package lmdb is missing, or the file is damaged.
    """
    try:
        import lmdb
    except ModuleNotFoundError as error:
        raise UserError("LSUN's files need the package lmdb, which is missing: pip install 'ebmzoo[all]'") from error
    try:
        # Without a lock the folder may be read-only, and many processes may read it.
        with lmdb.open(str(folder), readonly=True, lock=False) as file, file.begin() as reading:
            for key, value in reading.cursor():
                if len(value) > MOST_BYTES:
                    raise UserError(f"{folder}: an image has {len(value) / 2**20:.3g} MiB: download it again")
                yield f"{folder}: {bytes(key).decode(errors='replace')}", partial(bytes, value)
    except lmdb.Error as error:
        raise UserError(f"{folder} is not a complete lmdb ({first_line(error)}): copy or download it again") from error


class LSUNChurch(ImageData):
    """LSUN church_outdoor (Yu et al., 2015): 126,227 + 300 images of churches; Dual-MCMC's LSUN-Church-64.

    The published lmdb folders are read directly, and the 300 validation images are the test set. Nothing is downloaded:
    LSUN's own script does that (https://github.com/fyu/lsun), and its two archives are then unzipped in `root`. For
    images that are already extracted use `ImageFolder`, which scales and crops in the same way.

    Args:
        root: The folder that contains `church_outdoor_train_lmdb` and `church_outdoor_val_lmdb`.
        size: Side of the images in pixels: the shorter side is scaled to it (bicubic, antialiased), and the central
            square is kept; at 64 they take 1.4 GiB.
        **common: Arguments of `ImageData`.

    Raises:
        UserError: If `size` is below 1. On first use, if a folder or the package lmdb is missing, or a file is damaged.
    """

    name, channels, n_train = "LSUN church", 3, 126_227

    def __init__(self, root: str = "datasets", size: int = 64, **common: Any) -> None:
        super().__init__(**common)
        self.root = root
        self.size = size
        self.frame = Frame(size, self.channels)

    def load(self) -> tuple[ImageSet, ImageSet]:
        """Read the training and the validation images from `root`."""
        # Both are checked first, so that a missing second folder is reported before the first is decoded.
        train, val = (self._folder(f"church_outdoor_{part}_lmdb") for part in ("train", "val"))
        return self._read(train), self._read(val)

    def _folder(self, name: str) -> Path:
        folder = Path(self.root).expanduser() / name
        if not (folder / "data.mdb").exists():
            raise UserError(
                f"root: {folder} is missing or has no data.mdb: download {name}.zip with LSUN's script ({HOME}) and "
                f"unzip it in {folder.parent}"
            )
        check_regular(folder / "data.mdb")
        return folder

    def _read(self, folder: Path) -> ImageSet:
        _, images = decode(lmdb_files(folder), self.frame, max_gib=float("inf"))
        if not len(images):
            raise UserError(f"root: {folder} contains no images: download it again")
        return unlabelled(images, self.name)
