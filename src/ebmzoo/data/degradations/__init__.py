"""Linear degradations of images, with their adjoints, pseudo-inverses and noise."""

from ebmzoo.data.degradations.blur import Blur, GaussianBlur, UniformBlur
from ebmzoo.data.degradations.operator import Operator, Projection, consistent
from ebmzoo.data.degradations.pixelwise import Downsample, Grayscale, Identity, Masking
from ebmzoo.data.masks import Half

OPERATORS: dict[str, Operator] = {
    operator.name: operator
    for operator in (
        Downsample(4),
        Downsample(8),
        Grayscale.luma(),
        GaussianBlur(),
        Identity(),
        Masking(Half()),
    )
}
"""The operators under their names in tables and on the command line; grey is that of image files."""

__all__ = [
    "OPERATORS",
    "Blur",
    "Downsample",
    "GaussianBlur",
    "Grayscale",
    "Identity",
    "Masking",
    "Operator",
    "Projection",
    "UniformBlur",
    "consistent",
]
