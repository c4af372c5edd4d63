"""The weight of the latent term in a joint out-of-distribution score, chosen on images that are not reported on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from ebmzoo.data.datamodule import prepare
from ebmzoo.data.images import shuffled
from ebmzoo.methods.base.capabilities import ScoresJointly
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics import auroc

WEIGHTS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""The weights β to choose from; 0 is the energy alone."""


@dataclass(frozen=True)
class JointParts:
    """E(x) and cos(g(f(x)), h(x)) of images, each `(N,)`, whose weighted difference is the joint score."""

    energy: Tensor
    cos: Tensor

    @classmethod
    def of(cls, method: ScoresJointly, images: Tensor, device: torch.device, batch_size: int) -> JointParts:
        """Those of uint8 images `(N, C, H, W)`."""
        parts = [method.joint_parts(prepare(batch.to(device))) for batch in torch.split(images, batch_size)]
        energy, cos = zip(*parts, strict=True)
        return cls(torch.cat(energy).detach().cpu().double(), torch.cat(cos).detach().cpu().double())

    def score(self, weight: float) -> Tensor:
        """E(x) − β cos(g(f(x)), h(x)), `(N,)`."""
        return self.energy - weight * self.cos

    def ratio(self, weight: float) -> float:
        """sd(β cos)/sd(E), how far the latent term decides the order; infinite where E is constant."""
        return float(weight * self.cos.std(correction=0) / self.energy.std(correction=0))

    def halves(self) -> tuple[JointParts, JointParts]:
        """Those of two disjoint halves of the images; the split depends only on their number."""
        order = shuffled(len(self.energy), seed=0)
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        return JointParts(self.energy[first], self.cos[first]), JointParts(self.energy[second], self.cos[second])


@dataclass(frozen=True)
class ChosenWeight:
    """The weight β with the best mean AUROC on the first halves of all sets, and the scores of the second halves.

    Args:
        inside: The scores of the second half of the test images.
        outside: Those of each other set, by name; none where there is no other set, or one of a single image.
        protocol: The paper's β, sd(β cos)/sd(E) with it, the β chosen, and the mean AUROC of each on the first halves.
    """

    inside: Tensor
    outside: dict[str, Tensor]
    protocol: dict[str, Any]

    @classmethod
    def on(cls, method: Method, images: Tensor, others: Mapping[str, Tensor], n: int, batch_size: int) -> ChosenWeight:
        """Choose on at most `n` images of each set; of equal weights the least is taken."""
        assert isinstance(method, ScoresJointly)
        assert method.joint_weight is not None
        inside, *rest = (
            JointParts.of(method, part[:n], method.device, batch_size) for part in (images, *others.values())
        )
        protocol: dict[str, Any] = {"weight_of_score": method.joint_weight}
        protocol["sd_ratio_of_score"] = inside.ratio(method.joint_weight)
        first, second = inside.halves()
        if not rest or min(len(parts.energy) for parts in (inside, *rest)) < 2:
            return cls(second.energy, {}, protocol)
        halves = [parts.halves() for parts in rest]
        by = {weight: mean(auroc(first.score(weight), half.score(weight)) for half, _ in halves) for weight in WEIGHTS}
        best = max(by, key=by.__getitem__)
        protocol |= {"weight": best, "mean_auroc": {f"{weight:g}": value for weight, value in by.items()}}
        scores = {name: half.score(best) for name, (_, half) in zip(others, halves, strict=True)}
        return cls(second.score(best), scores, protocol)
