"""Pictures of the README and of MNIST: samples of the five methods side by side, from the models that come with ebmzoo.

python docs/site/side_by_side.py            # writes docs/pictures/five_methods.png and five_methods_mnist.png
"""

import argparse
import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ebmzoo.training.sharing.shared_model import PICTURE
from ebmzoo.training.sharing.zoo import folder_of

PICTURES = Path(__file__).resolve().parent.parent / "pictures"
METHODS = {"LIEBM": "liebm", "Dual-MCMC": "dual_mcmc", "CDRL": "cdrl", "CLEL": "clel", "Denoising-EBM": "denoising_ebm"}
SIDE = 5
"""Rows and columns that are taken from each model's 8×8 samples, from the top left: they are not selected."""
GAP, CAPTION = 12, 22


def corner(name: str) -> Image.Image:
    """The first SIDE × SIDE of a model's samples, which the first tiles of its picture are."""
    picture = Image.open(folder_of(name) / PICTURE)
    side = math.ceil((picture.width - 2) / 8) * SIDE + 2
    return picture.crop((0, 0, side, side))


def side_by_side(models: dict[str, str]) -> Image.Image:
    """The corners of the models' samples in one row, each below the name of its method."""
    corners = {method: corner(name) for method, name in models.items()}
    width = max(picture.width for picture in corners.values())
    made = Image.new("RGB", ((width + GAP) * len(corners) - GAP, width + CAPTION), "white")
    pen, font = ImageDraw.Draw(made), ImageFont.load_default(14)
    for place, (method, picture) in enumerate(corners.items()):
        left = place * (width + GAP)
        made.paste(picture, (left, CAPTION))
        pen.text((left + width / 2, 2), method, fill="black", font=font, anchor="ma")
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURES)
    out = parser.parse_args().out
    for data, file in (("digits", "five_methods.png"), ("mnist", "five_methods_mnist.png")):
        models = {method: f"{name}_{data}" for method, name in METHODS.items()}
        side_by_side(models).save(out / file, optimize=True)
