"""The churches of LSUN."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.decode import Entry, Frame, decode, first_line
from ebmzoo.data.images import ImageSet, unlabelled
from ebmzoo.errors import UserError

HOME = "https://github.com/fyu/lsun"


def lmdb_files(folder: Path) -> Iterator[Entry]:
    """Every picture of an lmdb folder, named by its key, in the order of the keys.

    Raises:
        UserError: If the package lmdb is missing, or the file is damaged.
    """
    try:
        import lmdb
    except ModuleNotFoundError as error:
        raise UserError("LSUN's files need the package lmdb, which is missing: pip install 'ebmzoo[all]'") from error
    try:
        # Nobody writes: without a lock the folder may be read-only, and be read by many processes.
        with lmdb.open(str(folder), readonly=True, lock=False) as file, file.begin() as reading:
            for key, value in reading.cursor():
                yield f"{folder}: {bytes(key).decode(errors='replace')}", partial(bytes, value)
    except lmdb.Error as error:
        raise UserError(f"{folder} is not a whole lmdb ({first_line(error)}): copy or download it again") from error


class LSUNChurch(ImageData):
    """LSUN church_outdoor (Yu et al., 2015): 126,227 + 300 pictures of churches, LSUN-Church-64 of Dual-MCMC.

    The published lmdb folders are read as they are; the 300 validation images are the test set. Nothing is downloaded:
    LSUN's own script does that (https://github.com/fyu/lsun), and the two archives are then unzipped in `root`. For
    pictures that are already unpacked there is `ImageFolder`, which scales and crops alike.

    Args:
        root: The folder that holds `church_outdoor_train_lmdb` and `church_outdoor_val_lmdb`.
        size: Side of the images: the shorter side is scaled to it (bicubic, antialiased), the middle square is kept; at
            64 they take 1.4 GiB.
        **common: As of every image data set.

    Raises:
        UserError: If the size is not possible; when the images are first needed, if a folder or the package lmdb is
            missing, or a file is damaged.
    """

    name, channels = "LSUN church", 3

    def __init__(self, root: str = "datasets", size: int = 64, **common: Any) -> None:
        super().__init__(**common)
        self.root, self.size = root, size
        self.frame = Frame(size, self.channels)

    def load(self) -> tuple[ImageSet, ImageSet]:
        """The training and the validation images of `root`."""
        # Both are looked for first: a missing second one is not found out after the first has been decoded.
        train, val = (self._folder(f"church_outdoor_{part}_lmdb") for part in ("train", "val"))
        return self._read(train), self._read(val)

    def _folder(self, name: str) -> Path:
        folder = Path(self.root).expanduser() / name
        if not (folder / "data.mdb").exists():
            raise UserError(
                f"root: {folder} is missing or has no data.mdb, download {name}.zip with LSUN's script ({HOME}) and "
                f"unzip it in {folder.parent}"
            )
        return folder

    def _read(self, folder: Path) -> ImageSet:
        _, images = decode(lmdb_files(folder), self.frame, max_gib=float("inf"))
        if not len(images):
            raise UserError(f"root: {folder} has no pictures in it, download it again")
        return unlabelled(images, self.name)
