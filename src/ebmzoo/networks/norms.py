"""Group norm in single precision, also under autocast."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ebmzoo.energy import at_least_fp32


class GroupNorm(nn.GroupNorm):
    """Group norm γ (x − mean)/√(var + ε) + β over each group of channels, computed in fp32, with the dtype of x.

    Autocast does the same on a GPU, but not on a CPU, where the bf16 kernel for channels-last images is slower.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(at_least_fp32(x), self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)
