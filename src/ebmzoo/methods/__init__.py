"""The methods: one file each, with its paper's algorithm box and little else."""

from ebmzoo.methods.base import Method, Samples
from ebmzoo.methods.capabilities import Conditions, Encodes, Generates, Reconstructs, StartsFromGenerator
from ebmzoo.methods.clel import CLEL
from ebmzoo.methods.conditioning import Alternation, StartsFromImages
from ebmzoo.methods.dual_mcmc import DualMCMC, Teaching
from ebmzoo.methods.liebm import LIEBM, Elbo
from ebmzoo.methods.readings import Readings
from ebmzoo.ssrl.stage import EncoderStage

__all__ = [
    "CLEL",
    "LIEBM",
    "Alternation",
    "Conditions",
    "DualMCMC",
    "Elbo",
    "EncoderStage",
    "Encodes",
    "Generates",
    "Method",
    "Readings",
    "Reconstructs",
    "Samples",
    "StartsFromGenerator",
    "StartsFromImages",
    "Teaching",
]
