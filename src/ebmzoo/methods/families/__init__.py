"""What several methods share: where their chains start, how their energies are built, and how they restore images."""

from ebmzoo.methods.families.denoiser_energy import ScoresByDenoising
from ebmzoo.methods.families.generator_chain import ChainFromGenerator, GeneratorAlone, WithGenerator
from ebmzoo.methods.families.noise_chain import ChainFromNoise, ChainFromReplay
from ebmzoo.methods.families.recovery_likelihood import RecoveryLikelihood
from ebmzoo.methods.families.restoration import RestoresByDenoiser, RestoresByEnergy

__all__ = [
    "ChainFromGenerator",
    "ChainFromNoise",
    "ChainFromReplay",
    "GeneratorAlone",
    "RecoveryLikelihood",
    "RestoresByDenoiser",
    "RestoresByEnergy",
    "ScoresByDenoising",
    "WithGenerator",
]
