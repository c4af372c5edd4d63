"""A convolution and a change of the resolution in one: the same values, gradients and second gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebmzoo.networks.resampling import pooled, upsampled

Op = Callable[[nn.Module, Tensor], Tensor]


def _pooled(layer: nn.Module, x: Tensor) -> Tensor:
    return F.avg_pool2d(layer(x), 2)


def _upsampled(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(F.interpolate(x, scale_factor=2))  # type: ignore[no-any-return]


def _derivatives(op: Op, layer: nn.Conv2d, x: Tensor) -> list[Tensor]:
    """The values, their gradients in the image and the parameters, and those of the squared gradient in the image."""
    x = x.clone().requires_grad_()
    y = op(layer, x)
    inputs = [x, *layer.parameters()]
    first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), inputs)
    return [y, *first, *second]


@pytest.mark.parametrize(("ours", "plain"), [(pooled, _pooled), (upsampled, _upsampled)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 6), (7, 5), (2, 2)])
def test_one_convolution_is_the_two_operations(
    ours: Op, plain: Op, layout: torch.memory_format, height: int, width: int
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 3, padding=1).double().to(memory_format=layout)
    x = torch.randn(2, 3, height, width, dtype=torch.double).to(memory_format=layout)
    for got, wanted in zip(_derivatives(ours, layer, x), _derivatives(plain, layer, x), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 5, 1),
        nn.Identity(),
        nn.Conv2d(3, 5, 3, padding=2, dilation=2),
        nn.Conv2d(3, 5, 3, padding=1, bias=False),
    ],
)
def test_other_layers_are_pooled_too(layer: nn.Module) -> None:
    x = torch.randn(2, 3, 8, 8, dtype=torch.double)
    torch.testing.assert_close(pooled(layer.double(), x), _pooled(layer, x), rtol=1e-12, atol=1e-12)


def test_a_pooled_convolution_multiplies_sixteen_times_an_output() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    layer, x = nn.Conv2d(3, 5, 3, padding=1), torch.randn(2, 3, 8, 8)
    counts = []
    for op, y in ((pooled, x), (_pooled, x), (upsampled, x), (_upsampled, x)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            op(layer, y)
        counts.append(counter.get_total_flops())
    assert counts[0] / counts[1] == counts[2] / counts[3] == 16 / 36


def test_a_kernel_is_mixed_in_fp32_under_autocast() -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(8, 8, 3, padding=1), torch.randn(4, 8, 8, 8)
    for ours, plain in ((pooled, _pooled), (upsampled, _upsampled)):
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            y = ours(layer, x)
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), plain(layer, x), rtol=0.02, atol=0.02)
