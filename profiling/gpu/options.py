"""What every part is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """The options of the command.

    Args:
        out: The folder of the figures.
        rehearse: Sizes that say nothing of speed, on whatever device there is.
        images: An archive, folder or `.npz` of images, on which the last part trains.
        encoder: A checkpoint with an encoder of such images.
        classifier: A checkpoint with a classifier of such images.
    """

    out: Path
    rehearse: bool = False
    images: Path | None = None
    encoder: Path | None = None
    classifier: Path | None = None

    @property
    def arguments(self) -> list[str]:
        """The options as arguments of a command line."""
        found = ["--out", str(self.out), *["--rehearse"] * self.rehearse]
        for name in ("images", "encoder", "classifier"):
            if (path := getattr(self, name)) is not None:
                found += [f"--{name}", str(path)]
        return found
