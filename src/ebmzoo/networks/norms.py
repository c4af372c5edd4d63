"""Group norm in single precision, whatever autocast says."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ebmzoo.energy import at_least_fp32


class GroupNorm(nn.GroupNorm):
    """γ (x − mean)/√(var + ε) + β over each group of channels, computed in fp32 and given in the dtype of x.

    Autocast computes so on a GPU by itself and not on a CPU, whose bf16 kernel for channels-last images is the slower.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(at_least_fp32(x), self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)
