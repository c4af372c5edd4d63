"""The methods: one file each, with its paper's algorithm box and little else."""

from ebmzoo.methods.base import Method, Samples
from ebmzoo.methods.capabilities import (
    Conditions,
    Denoises,
    Encodes,
    FollowsClasses,
    Generates,
    HasLevels,
    Inpaints,
    Proposes,
    Reconstructs,
    Restores,
    Restoring,
    SamplesInStages,
    ScoresByChance,
    Stage,
    StartsFromGenerator,
)
from ebmzoo.methods.cdrl import CDRL
from ebmzoo.methods.clel import CLEL
from ebmzoo.methods.conditioning import Alternation, StartsFromImages
from ebmzoo.methods.denoising_ebm import DenoisingEBM, Learning
from ebmzoo.methods.dual_mcmc import DualMCMC, Teaching
from ebmzoo.methods.liebm import LIEBM, Elbo
from ebmzoo.methods.readings import Readings
from ebmzoo.methods.recovery_chain import RecoveryChain
from ebmzoo.methods.two_stage import Sampling
from ebmzoo.ssrl.stage import EncoderStage

__all__ = [
    "CDRL",
    "CLEL",
    "LIEBM",
    "Alternation",
    "Conditions",
    "Denoises",
    "DenoisingEBM",
    "DualMCMC",
    "Elbo",
    "EncoderStage",
    "Encodes",
    "FollowsClasses",
    "Generates",
    "HasLevels",
    "Inpaints",
    "Learning",
    "Method",
    "Proposes",
    "Readings",
    "Reconstructs",
    "RecoveryChain",
    "Restores",
    "Restoring",
    "Samples",
    "SamplesInStages",
    "Sampling",
    "ScoresByChance",
    "Stage",
    "StartsFromGenerator",
    "StartsFromImages",
    "Teaching",
]
