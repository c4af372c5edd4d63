"""A method with known energies and samples."""

import torch
from torch import nn

from ebmzoo.methods import Method, Samples


class Oracle(Method):
    """A method whose samples are the training images and whose energy is the mean brightness."""

    def __init__(self, images):
        super().__init__()
        self.averages = nn.ModuleDict()
        self.weight = nn.Parameter(torch.zeros(1))
        self.images, self.at = images, 0

    def trained_networks(self):
        return {}

    def iterate(self, images, labels):
        return {}

    def energy(self, x):
        return x.flatten(1).mean(1)

    def ood_score(self, x):
        return -self.energy(x)

    def sample(self, n, *, labels=None, steps=None, generator=None):
        chosen = self.images[torch.arange(self.at, self.at + n) % len(self.images)]
        self.at += n
        return Samples(chosen, 5, "buffer", 5, 0.25)
