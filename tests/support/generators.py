"""Methods with an invertible generator."""

import math

import torch
from torch import nn

from ebmzoo.methods import Method, Samples
from ebmzoo.methods.base.capabilities import Generates, Reconstructs, StartsFromGenerator
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.posterior import PosteriorSampler
from support.tiny import SIZE


class Linear(Method, StartsFromGenerator, Reconstructs):
    """G(z) = Az with a square A on 8×8 images, E(x) = |x|²/2 and exact inference μ(x) = A⁻¹x, in double precision.

    `decoded` counts the images of each call of the generator with a gradient, one call per latent step.
    """

    def __init__(self, a, sampler=None, posterior=None, infers=True):
        super().__init__()
        self.averages = nn.ModuleDict()
        self.a = nn.Parameter(a)
        self.sampler = sampler or Langevin(steps=3, step_size=0.1, noise=0.0)
        self.posterior = posterior or quiet(10)
        self.infers, self.decoded = infers, []

    def trained_networks(self):
        return {}

    def iterate(self, images, labels):
        return {}

    def energy(self, x):
        return x.square().flatten(1).sum(1) / 2

    @property
    def latent(self):
        return self.a.shape[1]

    def decode(self, z):
        if z.requires_grad:
            self.decoded.append(len(z))
        return (z.double() @ self.a.T).view(-1, 1, SIZE, SIZE)

    @property
    def can_infer(self):
        return self.infers

    @property
    def posterior_sampler(self):
        return self.posterior

    def infer(self, x):
        assert self.infers
        return x.double().flatten(1) @ self.a.inverse().T

    def revise(self, x, *, steps=None, generator=None):
        sampler = self.sampler if steps is None else Langevin(steps, self.sampler.step_size, self.sampler.noise)
        return sampler.path(self.energy, x, generator=generator)

    def sample(self, n, *, labels=None, steps=None, generator=None):
        with self.evaluating():
            *_, x = self.revise(self.decode(torch.randn(n, self.latent, generator=generator)), steps=steps)
        steps = self.sampler.steps if steps is None else steps
        return Samples(x, 1 + steps, "generator", steps, self.sampler.temperature)


class GeneratorOnly(Method, Generates):
    """A method with only the linear generator."""

    def __init__(self, a):
        super().__init__()
        self.averages, self.a = nn.ModuleDict(), nn.Parameter(a)

    trained_networks, iterate, energy = Linear.trained_networks, Linear.iterate, Linear.energy
    latent = Linear.latent

    def decode(self, z):
        return (z.double() @ self.a.T).view(-1, 1, SIZE, SIZE)

    def sample(self, n, *, labels=None, steps=None, generator=None):
        return Samples(self.decode(torch.randn(n, self.latent)), 1, "generator", 0, math.nan)


def quiet(steps, step_size=0.005, sigma=0.3):
    return PosteriorSampler(Langevin(steps, step_size, noise=0.0), sigma)


def orthogonal(scale=0.2):
    generator = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(SIZE**2, SIZE**2, generator=generator, dtype=torch.float64))
    return scale * q
