"""Pictures of what a run makes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.utils import make_grid

from ebmzoo.data.images import to_uint8
from ebmzoo.errors import UserError


def grid(images: Tensor, columns: int | None = None, least: int = 32) -> Tensor:
    """Images `(n, C, H, W)` in [-1, 1] as one uint8 picture `(3, H, W)`, small ones enlarged to `least` pixels.

    W&B and PNG files are given uint8: a float picture in [0, 1] comes out black in W&B.
    """
    x = to_uint8(images.detach().cpu())
    factor = max(1, math.ceil(least / x.shape[-1]))
    if factor > 1:
        x = interpolate(x, scale_factor=factor, mode="nearest")
    columns = columns or math.ceil(math.sqrt(len(x)))
    picture: Tensor = make_grid(x, nrow=columns, padding=2, pad_value=255)
    return picture


def save_png(picture: Tensor, path: Path) -> None:
    """A uint8 picture `(3, H, W)` as a PNG file; the folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)


def save_grid(images: Tensor, path: Path, columns: int | None = None) -> None:
    """Images `(n, C, H, W)` in [-1, 1] as one PNG file."""
    save_png(grid(images, columns), path)


def save_scatter(plane: Tensor, labels: Tensor, classes: Sequence[str], title: str, path: Path) -> None:
    """Points `(N, 2)` coloured by class, as a PNG file.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError("the plot needs matplotlib: pip install 'ebmzoo[all]'") from error
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    for index, name in enumerate(classes):
        chosen = plane[labels == index]
        axes.scatter(chosen[:, 0].numpy(), chosen[:, 1].numpy(), s=6, label=name)
    axes.set(title=title, xticks=[], yticks=[])
    if len(classes) <= 20:
        axes.legend(markerscale=2, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
