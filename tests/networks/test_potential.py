"""The networks of Energy Matching: their sizes, and that they can be differentiated twice."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ebmzoo.energy import trainable_gradient
from ebmzoo.errors import UserError
from ebmzoo.networks import PatchHead, UNet, UNetPotential
from support.tiny import unet


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("unet", "head", "counts"),
    [
        (
            {"width": 128, "multiples": (1, 2, 2, 2), "depth": 2, "attention": (1,), "heads": 4, "embedding": 512},
            {},
            (35_746_307, 14_239_489),  # CIFAR-10
        ),
        (
            {"width": 128, "multiples": (1, 2, 3, 4), "depth": 2, "attention": (2,), "heads": 2, "embedding": 512},
            {"size": 64, "width": 512, "heads": 8},
            (82_958_979, 25_375_745),  # CelebA
        ),
        (
            {
                "in_channels": 1,
                "width": 32,
                "multiples": (1, 2, 2),
                "depth": 2,
                "attention": (1,),
                "embedding": 128,
            },
            {"in_channels": 1, "size": 28, "width": 128, "depth": 2},
            (1_623_169, 405_121),  # MNIST, 2,028,290 in all
        ),
    ],
    ids=["CIFAR-10", "CelebA", "MNIST"],
)
def test_the_networks_of_the_paper_have_its_number_of_parameters(unet, head, counts):
    with torch.device("meta"):
        net = UNetPotential(UNet(**unet, conditioning="shift", resampling="convolution"), PatchHead(**head))
    assert (count(net.unet), count(net.head)) == counts


def test_the_networks_of_the_cpu_have_the_number_of_their_configs():
    with torch.device("meta"):
        small = UNet(1, width=16, multiples=(1, 2), depth=1, attention=(1,), embedding=64)
        large = UNet(3, width=32, multiples=(1, 2, 2), depth=1, attention=(2,), embedding=128)
        heads = [PatchHead(1, 8, 2, 64, 2, 2), PatchHead(3, 32, 4, 128, 2, 2)]
    assert [count(net) for net in (small, large, *heads)] == [208_369, 1_371_107, 101_377, 411_137]


def test_v_is_constant_at_first_and_learns_all_the_same():
    torch.manual_seed(0)
    net = UNetPotential(
        UNet(1, width=8, multiples=(1, 2), depth=1, attention=(1,), embedding=16, dropout=0.0),
        PatchHead(1, 8, patch=4, width=16, depth=1, heads=2, dropout=0.0),
        scale=10.0,
    )
    x = torch.randn(4, 1, 8, 8)
    with sdpa_kernel(SDPBackend.MATH):
        values, grad = trainable_gradient(net, x)
        (grad - 1).square().mean().backward()
    torch.testing.assert_close(values, values[:1].expand(4))
    assert (grad == 0).all()
    assert net.unet.up.last.weight.grad.abs().max() > 0


@pytest.mark.parametrize("conditioning", ["scale_shift", "shift"])
@pytest.mark.parametrize("resampling", ["block", "convolution"])
def test_each_kind_of_u_net_keeps_the_shape_and_sees_the_time(conditioning, resampling):
    torch.manual_seed(0)
    net = UNet(
        2, width=8, multiples=(1, 2, 2), depth=1, attention=(1,), embedding=16, conditioning=conditioning,
        resampling=resampling, dropout=0.0, groups=4,
    )  # fmt: skip
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 2, 8, 8)
    one, other = net(x, torch.zeros(2)), net(x, torch.full((2,), 9.0))
    assert one.shape == x.shape
    assert (one - other).abs().max() > 1e-3


def test_the_last_map_is_in_fp32_under_autocast():
    net = UNetPotential(unet(), PatchHead(1, 8, patch=4, width=8, depth=1, heads=2), scale=1000.0).eval()
    with torch.autocast("cpu", torch.bfloat16):
        value = net(torch.randn(4, 1, 8, 8))
    assert value.dtype == torch.float32
    assert not torch.equal(value, value.bfloat16().float())


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="patch: 3 must divide the size, 8"):
        PatchHead(1, 8, patch=3)
    with pytest.raises(UserError, match="size: 8 is not the side"):
        PatchHead(1, 8, patch=4, width=8, depth=1, heads=2)(torch.zeros(1, 1, 16, 16))
    with pytest.raises(UserError, match="scale: 0"):
        UNetPotential(unet(), PatchHead(1, 8, patch=4, width=8, depth=1, heads=2), scale=0)
