"""Optimal transport between two batches of as many points."""

from __future__ import annotations

import torch
from torch import Tensor


def optimal_pairing(x: Tensor, y: Tensor) -> Tensor:
    """Return the permutation j for which Σᵢ |xᵢ − y_j(i)|² is least: `(B,)` int64, on the device of `x`.

    Exact, by the Hungarian algorithm on the CPU, in time O(B³). Points that are not finite are paired with any other.
    Source: Pooladian et al. (2023), Multisample flow matching; Tong et al. (2024), who draw pairs from the plan
    with replacement. Shapes: `x` and `y` are `(B, *)`.

    >>> optimal_pairing(torch.tensor([[3.0], [1.0]]), torch.tensor([[0.0], [5.0]])).tolist()
    [1, 0]
    """
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(x.detach().flatten(1).double(), y.detach().flatten(1).double()).square()
    _, columns = linear_sum_assignment(cost.nan_to_num(0.0, 0.0, 0.0).cpu().numpy())
    return torch.as_tensor(columns, device=x.device)
