"""The Langevin sampler, composed energies, noise schedules, replay buffers and bounds on log Z."""

from ebmzoo.sampling.class_energies import GivenClasses
from ebmzoo.sampling.class_gaussians import ClassGaussians
from ebmzoo.sampling.energies import Observed, Repelling
from ebmzoo.sampling.heun import Heun
from ebmzoo.sampling.langevin import ChainDivergedError, Langevin
from ebmzoo.sampling.latent_energies import GivenLatent, Informed, Joint
from ebmzoo.sampling.level_chain import RecoveryChain
from ebmzoo.sampling.noise_schedule import CosineSchedule, DRLSchedule, GeometricNoise, NoiseSchedule, column
from ebmzoo.sampling.posterior import PosteriorSampler
from ebmzoo.sampling.replay import ReplayBuffer

__all__ = [
    "ChainDivergedError",
    "ClassGaussians",
    "CosineSchedule",
    "DRLSchedule",
    "GeometricNoise",
    "GivenClasses",
    "GivenLatent",
    "Heun",
    "Informed",
    "Joint",
    "Langevin",
    "NoiseSchedule",
    "Observed",
    "PosteriorSampler",
    "RecoveryChain",
    "Repelling",
    "ReplayBuffer",
    "column",
]
