"""Methods and classifiers for images with known classes."""

import torch
from torch.nn.functional import one_hot

from ebmzoo.data import Shapes
from ebmzoo.data.shapes import COMBINATIONS, render
from ebmzoo.methods import Samples
from ebmzoo.methods.base.capabilities import LatentConditional
from ebmzoo.metrics import FeatureExtractor
from support.oracle import Oracle


def distances(x, templates):
    return torch.cdist(x.flatten(1).float(), templates.flatten(1))


class Corners(Oracle, LatentConditional):
    """h(x) is the bright corner, one of four; a sample conditioned on it is bright in `corners[h]`."""

    def __init__(self, corners=(0, 1, 2, 3)):
        templates = -torch.ones(4, 1, 8, 8)
        for k in range(4):
            templates[k, 0, 4 * (k // 2) :, 4 * (k % 2) :][:4, :4] = 1
        super().__init__(templates)
        self.corners, self.conditions = torch.tensor(corners), []

    def encode(self, x):
        return one_hot(distances(x, self.images).argmin(1), 4).float()

    def sample_from_latents(self, z, *, steps=None, generator=None):
        self.conditions.append(z)
        return Samples(self.images[self.corners[z.argmax(1)]], 7, "noise", 6, 0.5)


class Nearest(FeatureExtractor):
    """Classifies an image by the nearest template."""

    def __init__(self, templates, kinds=None, name="nearest"):
        super().__init__()
        self.templates, self.label = templates, name
        self.kinds = torch.arange(len(templates)) if kinds is None else kinds

    name = property(lambda self: self.label)
    fingerprint = property(lambda self: "0123456789ab")

    def available(self):
        return None

    def forward(self, images):
        predicted = self.kinds[distances(images, self.templates).argmin(1)]
        return images.flatten(1), one_hot(predicted, int(self.kinds.max()) + 1).float()


def judges(*names):
    images = render(COMBINATIONS.table, 16) / 127.5 - 1
    return {name: Nearest(images, COMBINATIONS.column(name), f"{name} judge") for name in names}


def shapes(**changes):
    return Shapes(
        **{"size": 16, "n_train": 480, "n_test": 20, "held_out": [{"shape": "star", "colour": "red"}]} | changes
    )
