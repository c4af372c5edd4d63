"""A method of any number of one-weight networks."""

import torch
from torch import nn
from torch.optim import SGD

from ebmzoo.methods import Method, Samples
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.methods.base.optimization import NetworkOptimizer


class Counting(Method):
    """A method of any number of one-weight networks, each stepped once per iteration."""

    def __init__(self, optimizers, schedule=None):
        super().__init__()
        self.nets = [nn.Linear(1, 1, bias=False) for _ in range(optimizers)]
        for i, net in enumerate(self.nets):
            self.add_module(f"net{i}", net)
        self.averages = averaged(0.5, **{f"net{i}": net for i, net in enumerate(self.nets)})
        self.schedule = schedule

    def trained_networks(self):
        return {
            f"net{i}": NetworkOptimizer(net, lambda p: SGD(p, lr=0.1), self.schedule) for i, net in enumerate(self.nets)
        }

    def iterate(self, images, labels):
        for i, net in enumerate(self.nets):
            self.minimize(net.weight.square().sum(), f"net{i}")
        return {"seen": images.new_tensor(len(images))}

    def energy(self, x):
        return x.flatten(1).sum(1)

    def sample(self, n, *, labels=None, steps=None, generator=None):
        return Samples(torch.zeros(n, 1, 8, 8), 0, "noise", 0, 1.0)
