"""Small CLEL models."""

import torch
from torch import nn
from torch.optim import SGD, Adam

from ebmzoo.methods import CLEL
from ebmzoo.networks import CLELEnergy, CLELFeatures
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.ssrl import Augment, SimCLR
from support.tiny import encoder

N, SLOTS, ETA, TAU = 6, 16, 2.0, 0.01


def clel(**changes):
    torch.manual_seed(0)
    trunk = CLELFeatures(1, 8, (1, 2), depth=1, hidden=16, latent=8, mean=(0.3,), std=(0.4,))
    net = CLELEnergy(trunk, latent=8, hidden=16)
    for layer in net.modules():  # so that energies are not almost zero, as they are at the start
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.3)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, 0.0, 0.3)
    settings = {
        "energy_net": net,
        "sampler": Langevin(2, ETA, TAU, bounds=(0.0, 1.0)),
        "in_channels": 1,
        "size": 8,
        "encoder": encoder(),
        "encoder_objective": SimCLR(Augment(flip_prob=0.0), temperature=0.2),
        "beta": 0.3,
        "rounds": 2,
        "replay_size": SLOTS,
        "reinit_prob": 0.2,
        "augment": Augment(flip_prob=0.0),
        "energy_optimizer": lambda p: Adam(p, 1e-3),
        "encoder_optimizer": lambda p: SGD(p, 0.03, momentum=0.9),
    }
    return CLEL(**settings | changes)


def without_latent(**changes):
    return clel(**{"encoder": None, "encoder_objective": None, "beta": 0.0} | changes)
