"""The methods: one file each, with its paper's algorithm box and little else."""

from ebmzoo.methods.autoencoder import KLAutoEncoderTraining
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.methods.base.capabilities import (
    ClassConditional,
    Classifies,
    DecodesGaussian,
    Denoises,
    Encodes,
    EvaluatesAsPaper,
    Generates,
    HasChain,
    HasFlatDirections,
    HasLevels,
    HasStochasticScore,
    Inpaints,
    LatentConditional,
    Reconstructs,
    RestorationSettings,
    Restores,
    RunsChain,
    RunsLevels,
    SamplesInStages,
    SampleStage,
    ScoresJointly,
    StartsFromGenerator,
    StartsFromProposal,
)
from ebmzoo.methods.base.encoder_stage import EncoderStage
from ebmzoo.methods.base.log_values import LogValues, chain_log_values, contrast, energy_log_values
from ebmzoo.methods.base.method import Method
from ebmzoo.methods.base.optimization import NetworkOptimizer, optimizers_of
from ebmzoo.methods.base.paper import Paper
from ebmzoo.methods.base.samples import ChainInfo, Samples
from ebmzoo.methods.base.schedules import WarmupThenDrops
from ebmzoo.methods.cdrl import CDRL
from ebmzoo.methods.clel import CLEL
from ebmzoo.methods.denoising_ebm import DenoisingEBM, DenoisingEBMLearning
from ebmzoo.methods.denoising_ebm_sampling import DenoisingEBMSampling
from ebmzoo.methods.dual_mcmc import DualMCMC, DualMCMCLosses
from ebmzoo.methods.energy_matching import EnergyMatching
from ebmzoo.methods.energy_matching_terms import EnergyMatchingContrast, EnergyMatchingInteraction
from ebmzoo.methods.equilibrium_matching import EquilibriumMatching
from ebmzoo.methods.families.conditional_chain import LIEBMAlternation, StartsFromImages
from ebmzoo.methods.jem import JEM
from ebmzoo.methods.liebm import LIEBM, LIEBMElbo
from ebmzoo.sampling.level_chain import RecoveryChain

__all__ = [
    "CDRL",
    "CLEL",
    "JEM",
    "LIEBM",
    "ChainInfo",
    "ClassConditional",
    "Classifies",
    "DecodesGaussian",
    "Denoises",
    "DenoisingEBM",
    "DenoisingEBMLearning",
    "DenoisingEBMSampling",
    "DualMCMC",
    "DualMCMCLosses",
    "EncoderStage",
    "Encodes",
    "EnergyMatching",
    "EnergyMatchingContrast",
    "EnergyMatchingInteraction",
    "EquilibriumMatching",
    "EvaluatesAsPaper",
    "Generates",
    "HasChain",
    "HasFlatDirections",
    "HasLevels",
    "HasStochasticScore",
    "Inpaints",
    "KLAutoEncoderTraining",
    "LIEBMAlternation",
    "LIEBMElbo",
    "LatentConditional",
    "LogValues",
    "Method",
    "NetworkOptimizer",
    "Paper",
    "Reconstructs",
    "RecoveryChain",
    "RestorationSettings",
    "Restores",
    "RunsChain",
    "RunsLevels",
    "SampleStage",
    "Samples",
    "SamplesInStages",
    "ScoresJointly",
    "StartsFromGenerator",
    "StartsFromImages",
    "StartsFromProposal",
    "WarmupThenDrops",
    "averaged",
    "chain_log_values",
    "contrast",
    "energy_log_values",
    "optimizers_of",
]
