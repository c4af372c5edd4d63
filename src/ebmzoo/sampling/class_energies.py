"""Energies of images given classes, of a classifier whose logits are energies."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ebmzoo.networks.base import ClassEnergyNet


@dataclass(frozen=True)
class GivenClasses:
    """The energy (1 + w) Σₖ E(x, yₖ) − (Mw + M − 1) E(x) of images of M classes at once, guided with weight w.

    E(x|y) is E(x, y) up to a constant, so that with M = 1 and w = 0 it is the law of images of one class. All its terms
    come from one pass of the network.
    Source: Grathwohl et al. (2020), E(x, y); CDRL, Eq. 11, 13 and 14, for guidance and compositions.
    Shapes: `x` is `(B, C, H, W)`; the energy is `(B,)`.

    >>> import torch
    >>> from ebmzoo.networks import WideResNet
    >>> net, x = WideResNet(in_channels=1, classes=3, depth=10, widen=1), torch.zeros(2, 1, 8, 8)
    >>> of_classes = GivenClasses(net, labels=torch.tensor([[0], [2]]))
    >>> torch.equal(of_classes(x), -net.logits(x)[[0, 1], [0, 2]])
    True

    Args:
        net: The classifier f, with E(x, y) = −f(x)[y].
        labels: The classes yₖ of each image, `(B, M)` int64.
        guidance: w, 0 for none.
    """

    net: ClassEnergyNet
    labels: Tensor
    guidance: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        logits, m = self.net.logits(x), self.labels.shape[1]
        of_classes = -logits.gather(1, self.labels).sum(1)
        return (1 + self.guidance) * of_classes + (m * self.guidance + m - 1) * logits.logsumexp(1)
