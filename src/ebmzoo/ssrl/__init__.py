"""Self-supervised objectives for encoders, the augmentations of their views, and encoder pre-training."""

from ebmzoo.ssrl.augment import Augment
from ebmzoo.ssrl.byol import BYOL
from ebmzoo.ssrl.mae import MAE
from ebmzoo.ssrl.objective import Objective
from ebmzoo.ssrl.pretraining import Pretraining, load_encoder
from ebmzoo.ssrl.schedule import warmup_then_drops
from ebmzoo.ssrl.simclr import SimCLR, nt_xent
from ebmzoo.ssrl.wmse import WMSE

__all__ = [
    "BYOL",
    "MAE",
    "WMSE",
    "Augment",
    "Objective",
    "Pretraining",
    "SimCLR",
    "load_encoder",
    "nt_xent",
    "warmup_then_drops",
]
