"""How well the probabilities of a classifier agree with its accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reliability:
    """Images in equal bins (l, u] of the confidence max_y p(y|x): their number, mean confidence and accuracy.

    A mean over no image is NaN. Source: Guo et al. (2017), with the 20 bins of Grathwohl et al. (2020).

    >>> confidence, correct = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.95]), torch.tensor([1, 1, 1, 1, 0]).bool()
    >>> round(Reliability.of(confidence, correct).error, 4)
    0.15

    Args:
        counts: Images in each bin, `(bins,)`.
        confidence: Their mean confidence, `(bins,)`.
        accuracy: The share of them that is classified correctly, `(bins,)`.
    """

    counts: Tensor
    confidence: Tensor
    accuracy: Tensor

    @classmethod
    def of(cls, confidence: Tensor, correct: Tensor, bins: int = 20) -> Reliability:
        """Sort images by their confidence, `(N,)` in (0, 1]; `correct` is `(N,)` bool."""
        confidence = confidence.double()
        edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
        # The confidence is float32 where the network is: 0.8 is the upper edge of its bin, however it was rounded.
        at = torch.bucketize(confidence - 1e-6, edges[1:-1])
        counts = at.bincount(minlength=bins).double()
        sums = [at.bincount(values.double(), minlength=bins) / counts for values in (confidence, correct)]
        return cls(counts, *sums)

    @property
    def error(self) -> float:
        """The expected calibration error Σ_b n_b/N |accuracy_b − confidence_b|, in [0, 1]."""
        gaps = (self.accuracy - self.confidence).abs().nan_to_num()
        return float((self.counts * gaps).sum() / self.counts.sum())
