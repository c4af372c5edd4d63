"""The baselines: what the methods are ablations of, or are measured against; one file each."""

from ebmzoo.methods.baselines.coopnets import CoopNets
from ebmzoo.methods.baselines.divergence_triangle import DivergenceTriangle
from ebmzoo.methods.baselines.drl import DRL
from ebmzoo.methods.baselines.hat_ebm import HatEBM
from ebmzoo.methods.baselines.igebm import IGEBM, ClippedAdam
from ebmzoo.methods.baselines.improved_cd import ImprovedCD
from ebmzoo.methods.baselines.mdsm import MDSM, MDSMCooling
from ebmzoo.methods.baselines.score_network import ScoreNetwork
from ebmzoo.methods.baselines.short_run import ShortRunEBM
from ebmzoo.methods.baselines.vae import VAE

__all__ = [
    "DRL",
    "IGEBM",
    "MDSM",
    "VAE",
    "ClippedAdam",
    "CoopNets",
    "DivergenceTriangle",
    "HatEBM",
    "ImprovedCD",
    "MDSMCooling",
    "ScoreNetwork",
    "ShortRunEBM",
]
