"""What is in a labelled grid of images and in the SVG file beside a picture."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image

TEXT = "{http://www.w3.org/2000/svg}text"


def cells(path, rows, columns, side=8):
    """The images of a grid of images of `side` pixels, uint8 `(rows, columns, 3, side, side)`, without its labels."""
    with Image.open(path) as picture:
        pixels = torch.from_numpy(np.array(picture.convert("RGB")))
    shown = max(side, 64 // side * side)  # enlarged to 64 pixels, with 2 between
    pitch = shown + 2
    grid = pixels[-(rows * pitch + 2) :, -(columns * pitch + 2) :]
    assert grid.shape[:2] == (rows * pitch + 2, columns * pitch + 2)
    assert (grid[:2] == 255).all()
    assert (grid[:, :2] == 255).all()
    images = grid[2:, 2:].unflatten(0, (rows, pitch)).unflatten(2, (columns, pitch))[:, :shown, :, :shown]
    return images[:, :: shown // side, :, :: shown // side].permute(0, 2, 4, 1, 3)


def labels(path):
    """The texts of a picture, in the order in which they were drawn, from the SVG file beside it."""
    assert Path(path).with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    root = ElementTree.parse(Path(path).with_suffix(".svg")).getroot()
    return ["".join(text.itertext()) for text in root.iter(TEXT)]


def rows_and_columns(path, rows):
    """The labels of the rows, of which there are so many, and of the columns of a grid."""
    return (found := labels(path))[:rows], found[rows:]
