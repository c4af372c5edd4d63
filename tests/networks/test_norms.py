"""Group norm is that of single precision under any autocast."""

import pytest
import torch
import torch.nn.functional as F

from ebmzoo.networks.norms import GroupNorm
from ebmzoo.networks.unet import BlockSettings


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_norm_is_computed_in_fp32_or_better_and_returned_in_the_dtype_of_its_input(dtype, layout):
    torch.manual_seed(0)
    norm = GroupNorm(4, 8, eps=1e-6)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    norm = norm.double() if dtype == torch.float64 else norm
    x = (3 + torch.randn(2, 8, 5, 5)).to(dtype, memory_format=layout).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x)
    wide = x.detach().to(torch.float64 if dtype == torch.float64 else torch.float32).requires_grad_()
    want = F.group_norm(wide, 4, norm.weight, norm.bias, 1e-6)
    assert y.dtype == dtype
    assert torch.equal(y, want.to(dtype))
    assert y.is_contiguous(memory_format=layout)
    weight = torch.randn(2, 8, 5, 5).to(dtype)
    (grad,), (of_wide,) = torch.autograd.grad((y * weight).sum(), x), torch.autograd.grad((want * weight).sum(), wide)
    torch.testing.assert_close(grad, of_wide.to(dtype), rtol=2e-2, atol=1e-2)


def test_u_nets_are_normed_by_it():
    assert isinstance(BlockSettings(8, 1, 0.0, 8).norm(12), GroupNorm)
    assert BlockSettings(8, 1, 0.0, 8).norm(12).num_groups == 4
