"""Scores of samples by which checkpoints are compared while a run trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData
from ebmzoo.errors import UserError
from ebmzoo.metrics import FeatureExtractor, Pixels, extract, inception_score, kernel_distance
from ebmzoo.metrics.frechet import FeatureStatistics

Score = Callable[[Tensor], float]
"""A figure of samples, uint8 `(n, C, H, W)`."""


@dataclass(frozen=True)
class Monitor:
    """A score by its name.

    Args:
        name: The name, such as `fd_pixels`.
        score: The function.
        sign: 1 if a lower score is better, and −1 if a higher one is.
    """

    name: str
    score: Score
    sign: Literal[1, -1] = 1

    def loss(self, images: Tensor) -> float:
        """`sign` times the score of samples.

        Raises:
            UserError: The samples cannot be scored, or the score is not finite.
        """
        score = self.score(images)
        if not math.isfinite(score):
            raise UserError(f"it is {score}")
        return self.sign * score


def monitor(
    name: str | None,
    extractors: Sequence[FeatureExtractor],
    data: ImageData,
    batch_size: int = 250,
    device: torch.device | str = "cpu",
) -> Monitor:
    """The score of that name: a Fréchet or kernel distance to all training images, or an Inception Score.

    The features of the training images are computed at its first use.

    Args:
        name: `fd_…`, `kd_…` or `is_…` with the name of an extractor, or Inception's `fid`, `kid` and `is`.
        extractors: The feature extractors, besides the pixels.
        data: The data with the training images.
        batch_size: Images in one pass of an extractor.
        device: The device that extractors run on.

    Raises:
        UserError: There is no such score.
    """
    found: list[Monitor] = []
    missing = [sentence for e in extractors if (sentence := e.available()) is not None]
    for e in (*extractors, Pixels()):
        if e.available() is None:
            features = _Features(e, data, batch_size, device)
            found.append(Monitor(e.fd_name, features.frechet))
            found.append(Monitor(e.kd_name, features.kernel))
            if not isinstance(e, Pixels):
                found.append(Monitor(e.is_name, features.inception, -1))
    if (chosen := next((each for each in found if each.name == name), None)) is None:
        names = ", ".join(dict.fromkeys(each.name for each in found))
        hint = f"; {missing[0]}" if missing else ""
        raise UserError(f"checkpoint.monitor is {name}; it must be one of {names}{hint}")
    return chosen


class _Features:
    """The features by one extractor, those of the training images kept after their first use."""

    def __init__(
        self, extractor: FeatureExtractor, data: ImageData, batch_size: int, device: torch.device | str
    ) -> None:
        self.extractor, self.data, self.batch_size, self.device = extractor, data, batch_size, device
        self._statistics: FeatureStatistics | None = None
        self._real: Tensor | None = None

    def frechet(self, images: Tensor) -> float:
        if self._statistics is None:
            self._statistics = FeatureStatistics.of(self._of(self.data.train_set.images)[0])
        return self._statistics.distance(FeatureStatistics.of(self._of(images)[0]))

    def kernel(self, images: Tensor) -> float:
        if self._real is None:
            self._real, _ = self._of(self.data.train_set.images)
        return kernel_distance(self._real, self._of(images)[0])[0]

    def inception(self, images: Tensor) -> float:
        _, logits = self._of(images)
        if logits is None:
            raise UserError(f"the extractor {self.extractor.name} has no logits")
        return inception_score(logits)[0]

    def _of(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        return extract(self.extractor.to(self.device), images, self.batch_size, self.device)
