"""The methods: one file each, with its paper's algorithm box and little else."""

from ebmzoo.methods.autoencoder import KLAutoEncoderTraining
from ebmzoo.methods.base.capabilities import (
    ClassConditional,
    Denoises,
    Encodes,
    Generates,
    HasLevels,
    HasStochasticScore,
    Inpaints,
    LatentConditional,
    Reconstructs,
    RestorationSettings,
    Restores,
    SamplesInStages,
    SampleStage,
    StartsFromGenerator,
    StartsFromProposal,
)
from ebmzoo.methods.base.encoder_stage import EncoderStage
from ebmzoo.methods.base.log_values import LogValues
from ebmzoo.methods.base.method import Method
from ebmzoo.methods.base.samples import Samples
from ebmzoo.methods.cdrl import CDRL
from ebmzoo.methods.clel import CLEL
from ebmzoo.methods.denoising_ebm import DenoisingEBM, DenoisingEBMLearning
from ebmzoo.methods.denoising_ebm_sampling import DenoisingEBMSampling
from ebmzoo.methods.dual_mcmc import DualMCMC, DualMCMCLosses
from ebmzoo.methods.families.conditional_chain import LIEBMAlternation, StartsFromImages
from ebmzoo.methods.liebm import LIEBM, LIEBMElbo
from ebmzoo.sampling.level_chain import RecoveryChain

__all__ = [
    "CDRL",
    "CLEL",
    "LIEBM",
    "ClassConditional",
    "Denoises",
    "DenoisingEBM",
    "DenoisingEBMLearning",
    "DenoisingEBMSampling",
    "DualMCMC",
    "DualMCMCLosses",
    "EncoderStage",
    "Encodes",
    "Generates",
    "HasLevels",
    "HasStochasticScore",
    "Inpaints",
    "KLAutoEncoderTraining",
    "LIEBMAlternation",
    "LIEBMElbo",
    "LatentConditional",
    "LogValues",
    "Method",
    "Reconstructs",
    "RecoveryChain",
    "RestorationSettings",
    "Restores",
    "SampleStage",
    "Samples",
    "SamplesInStages",
    "StartsFromGenerator",
    "StartsFromImages",
    "StartsFromProposal",
]
