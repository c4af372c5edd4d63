"""The wide residual classifier against its equation, its authors' counts, and what JEM++ takes from its first layer."""

import pytest
import torch
import torch.nn.functional as F

from ebmzoo.errors import UserError
from ebmzoo.networks import WideResNet
from ebmzoo.networks.wide_resnet import PreActivationBlock
from ebmzoo.sampling.langevin import Langevin


def doubles(*shape, seed=4):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def small(**changes):
    torch.manual_seed(0)
    return WideResNet(**{"in_channels": 1, "classes": 3, "depth": 10, "widen": 1} | changes).double()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, 36_471_338),
        ({"depth": 16, "widen": 4}, 2_747_530),
        ({"depth": 10, "widen": 2}, 303_466),
        ({"depth": 10, "widen": 1, "in_channels": 1}, 77_418),
    ],
)
def test_parameters(arguments, expected):
    with torch.device("meta"):
        assert sum(p.numel() for p in WideResNet(**arguments).parameters()) == expected


@pytest.mark.parametrize(("channels", "out", "stride"), [(4, 4, 1), (4, 6, 1), (4, 4, 2)])
def test_a_block_is_its_equation(channels, out, stride):
    torch.manual_seed(0)
    block = PreActivationBlock(channels, out, stride, leak=0.2).double()
    x = doubles(2, channels, 8, 8)

    def lrelu(x):
        return torch.where(x > 0, x, 0.2 * x)

    h = F.conv2d(lrelu(x), block.conv1.weight, block.conv1.bias, padding=1)
    h = F.conv2d(lrelu(h), block.conv2.weight, block.conv2.bias, stride, padding=1)
    same = (channels, stride) == (out, 1)
    want = h + (x if same else F.conv2d(x, block.shortcut.weight, block.shortcut.bias, stride))
    torch.testing.assert_close(block(x), want)


def test_the_stages_halve_the_image_twice_and_the_head_is_linear_in_the_mean():
    net, seen = small(), []
    for block in net.blocks:
        block.register_forward_hook(lambda _m, _x, h: seen.append(tuple(h.shape[1:])))
    x = doubles(2, 1, 16, 16)
    features = net.features(x)
    assert seen == [(16, 16, 16), (32, 8, 8), (64, 4, 4)]
    h = net.blocks(net.first(x))
    torch.testing.assert_close(features, torch.where(h > 0, h, 0.2 * h).mean((2, 3)))
    torch.testing.assert_close(net.logits(x), features @ net.last.weight.T + net.last.bias)


def test_the_energy_is_the_logarithm_of_the_sum_over_classes_and_of_an_image_alone():
    net, x = small(), doubles(3, 1, 8, 8)
    torch.testing.assert_close(net(x), -net.logits(x).exp().sum(1).log())
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]))


def test_logits_are_float32_under_autocast():
    net, x = small().float(), torch.rand(2, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert net.logits(x).dtype == net(x).dtype == net.features(x).dtype == torch.float32


@pytest.mark.parametrize("depth", [4, 9, 12])
def test_the_depth_has_whole_blocks(depth):
    with pytest.raises(UserError, match=f"depth: {depth} must be 4 more than a multiple of 6"):
        small(depth=depth)


def test_inner_steps_on_the_first_layer_alone_are_one_step_of_their_length():
    """Law 11: JEM++'s 5 inner steps of 0.2 with the clamps of the chain equal one step of 1, as the layer is linear."""
    net, x = small(), 0.9 * doubles(4, 1, 8, 8).clamp(-1, 1)
    for p in net.parameters():
        p.data *= 3  # so that both clamps are reached
    hidden = net.first(x).detach().requires_grad_()
    h = F.leaky_relu(net.blocks(hidden), net.leak).mean((2, 3))
    (p,) = torch.autograd.grad(-net.last(h).logsumexp(1).sum(), hidden)
    state = x
    for _ in range(5):  # the costate p of the first layer's output is kept, and x moves by that layer's gradient
        state = state.detach().requires_grad_()
        (grad,) = torch.autograd.grad((p * net.first(state)).sum(), state)
        state = (state - 0.2 * grad.clamp(-1, 1)).clamp(-1, 1)
    whole = Langevin(steps=1, step_size=1.0, noise=0.0, clip=1.0, bounds=(-1, 1))(net, x)
    torch.testing.assert_close(state.detach(), whole, rtol=0, atol=1e-14)
    assert (grad.abs() > 1).any()
    assert (grad.abs() < 1).any()
    assert (whole.abs() == 1).any()
