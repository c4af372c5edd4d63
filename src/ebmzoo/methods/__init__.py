"""The methods: one file each, with its paper's algorithm box and little else."""

from ebmzoo.methods.base import Method, Readings, Samples
from ebmzoo.methods.capabilities import Encodes, Reconstructs, StartsFromGenerator
from ebmzoo.methods.liebm import LIEBM, Elbo
from ebmzoo.ssrl.stage import EncoderStage

__all__ = [
    "LIEBM",
    "Elbo",
    "EncoderStage",
    "Encodes",
    "Method",
    "Readings",
    "Reconstructs",
    "Samples",
    "StartsFromGenerator",
]
