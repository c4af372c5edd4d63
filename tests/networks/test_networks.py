"""Laws of the networks: parameter counts, homogeneity, spectral norms, ranges, and the latent energy's equations."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from ebmzoo.energy import gradient
from ebmzoo.errors import UserError
from ebmzoo.networks import (
    LatentEnergy,
    ResNetEncoder,
    SNGANEnergy,
    SNGANFeatures,
    SNGANGenerator,
    SNGANInference,
    spectral_norm_,
)

SIZES = [8, 16, 32, 64, 256]
HEAD = 590_912


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture
def on_meta():
    with torch.device("meta"):
        yield


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize(
    ("size", "width", "none", "last", "everywhere"),
    [
        (32, 256, 4_333_056, 4_333_568, 4_927_040 - HEAD),
        (32, 512, 17_054_720, 17_646_144 - HEAD, 17_651_264 - HEAD),
        (64, 1024, 20_060_032, 20_651_969 - HEAD - 513, 20_657_921 - HEAD - 513),
        (256, 1024, 40_060_800, 40_061_312, 40_070_528),
    ],
)
def test_parameters_of_the_trunk(size, width, none, last, everywhere):
    for bias, expected in {"none": none, "last": last, "all": everywhere}.items():
        assert count(SNGANFeatures(size=size, width=width, bias=bias)) == expected, bias


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize(
    ("size", "width", "bias", "marginal", "expected"),
    [
        (32, 256, "last", "norm", 4_924_480),
        (32, 256, "all", "norm", 4_927_040),
        (32, 512, "last", "norm", 17_646_144),
        (32, 512, "all", "norm", 17_651_264),
        (32, 256, "none", "linear", 4_923_968 + 513),
        (64, 1024, "none", "linear", 20_651_457),
        (64, 1024, "last", "linear", 20_651_969),
        (64, 1024, "all", "linear", 20_657_921),
        (256, 1024, "none", "linear", 40_652_225),
    ],
)
def test_parameters_of_the_latent_energy(size, width, bias, marginal, expected):
    assert count(LatentEnergy(SNGANFeatures(size=size, width=width, bias=bias), marginal=marginal)) == expected


@pytest.mark.usefixtures("on_meta")
def test_parameters_of_the_others():
    assert count(SNGANEnergy(width=256)) == 4_202_240
    assert count(SNGANEnergy(width=512)) == 16_793_088
    assert count(SNGANEnergy(size=64, width=1024)) == 19_536_768
    assert count(SNGANGenerator(width=256)) == 4_276_739
    assert count(SNGANGenerator(width=512)) == 16_024_579
    assert count(SNGANGenerator(size=64, width=1024)) == 12_220_675
    assert count(SNGANGenerator(latent=256, size=256, width=1024)) == 34_276_995
    assert count(SNGANInference(size=32)) == 15_208_064
    assert count(SNGANInference(size=64)) == 15_210_752
    assert count(SNGANInference(size=256, latent=256)) == 8_064_512
    encoder = ResNetEncoder()
    assert count(encoder.backbone) == 11_168_832
    assert count(encoder.head) == 592_960 + 128


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_ranges(size, channels):
    torch.manual_seed(0)
    x = torch.rand(2, channels, size, size) * 2 - 1
    f = SNGANFeatures(channels, size, width=32, out_features=5)(x)
    assert f.shape == (2, 5)
    assert SNGANEnergy(channels, size, width=32)(x).shape == (2,)
    mean, logvar = SNGANInference(channels, size, latent=3, width=4)(x)
    assert mean.shape == logvar.shape == (2, 3)
    images = SNGANGenerator(3, channels, size, width=32)(5 * torch.randn(2, 3))
    assert images.shape == x.shape
    assert images.abs().max() <= 1


@pytest.mark.parametrize("network", [SNGANFeatures, SNGANEnergy, SNGANGenerator, SNGANInference])
def test_unknown_size_is_refused(network):
    with pytest.raises(UserError, match=r"size: 48 .* 8, 16, 32, 64, 256"):
        network(size=48)


@pytest.mark.parametrize(("network", "width"), [(SNGANFeatures, 24), (SNGANGenerator, 40), (SNGANInference, 3)])
def test_unfit_width_is_refused(network, width):
    with pytest.raises(UserError, match=f"width: {width} must be a positive multiple"):
        network(size=64, width=width)


@pytest.mark.parametrize("size", [8, 16, 32, 64])
@pytest.mark.parametrize("spectral_norm", ["none", "conv", "all"])
def test_homogeneous_only_without_bias(size, spectral_norm):
    torch.manual_seed(0)
    x = torch.randn(3, 3, size, size)
    for bias in ("none", "last", "all"):
        f = SNGANFeatures(size=size, width=16, out_features=4, bias=bias, spectral_norm=spectral_norm).eval()
        zero, once, thrice = (f(c * x) for c in (0, 1, 3))
        holds = torch.allclose(thrice, 3 * once, rtol=1e-4, atol=1e-6)
        assert holds == f.homogeneous == (bias == "none"), bias
        assert (zero == 0).all() == f.homogeneous, bias


def test_norm_energy_of_a_homogeneous_trunk_is_refused():
    trunk = SNGANFeatures(size=8, width=8, bias="none")
    with pytest.raises(UserError, match="bias"):
        LatentEnergy(trunk)
    assert LatentEnergy(trunk, marginal="linear")(torch.zeros(2, 3, 8, 8)).shape == (2,)


def latent_energy(marginal, **kwargs):
    return LatentEnergy(SNGANFeatures(1, 8, 8, 6, **kwargs), latent=4, hidden=5, marginal=marginal)


def test_marginal_is_the_equation():
    torch.manual_seed(0)
    x = torch.randn(3, 1, 8, 8)
    for marginal in ("norm", "linear"):
        net = latent_energy(marginal)
        f = net.features(x)
        torch.testing.assert_close(f, net.trunk(x), rtol=0, atol=0)
        expected = (
            f.norm(dim=1) ** 2 / 2 if net.linear is None else -(f @ net.linear.weight[0] + net.linear.bias.squeeze())
        )
        torch.testing.assert_close(net.marginal(f), expected)
        torch.testing.assert_close(net(x), net.marginal(f), rtol=0, atol=0)
        first, _, second = net.projection
        projected = (f @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias
        torch.testing.assert_close(net.project(f), projected)


def test_norm_energy_pulls_features_to_zero():
    f = torch.randn(4, 6)
    torch.testing.assert_close(gradient(latent_energy("norm").marginal, f), f, rtol=0, atol=0)


@pytest.mark.parametrize("marginal", ["norm", "linear"])
def test_energies_are_float32_under_autocast(marginal):
    torch.manual_seed(0)
    net = latent_energy(marginal)
    x = torch.randn(3, 1, 8, 8)
    f = net.features(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net.features(x).dtype == net(x).dtype == torch.float32
        low = net.marginal(f), net.project(f)
        assert SNGANEnergy(1, 8, 8)(x).dtype == torch.float32
        assert SNGANGenerator(3, 1, 8, 8)(x[:, 0, 0, :3]).dtype == torch.float32
        assert ResNetEncoder(1, 4, (1,), 3, 6, None, None)(x).dtype == torch.float32
    for under, full in zip(low, (net.marginal(f), net.project(f)), strict=True):
        assert torch.equal(under, full)


def top_singular_value(layer):
    return torch.linalg.matrix_norm(layer.weight.flatten(1), 2)


def test_spectral_norm_converges_to_one():
    torch.manual_seed(0)
    net = SNGANFeatures(size=8, width=16, out_features=7, spectral_norm="all")
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        for _ in range(2000):
            _ = [layer.weight for layer in layers]
        net.eval()
        for layer in layers:
            torch.testing.assert_close(top_singular_value(layer), torch.tensor(1.0), rtol=1e-4, atol=1e-4)


def test_spectral_norm_applies_to_the_layers_of_its_option():
    for which, kinds in {"none": (), "conv": (nn.Conv2d,), "all": (nn.Conv2d, nn.Linear)}.items():
        net = SNGANFeatures(size=8, width=16, spectral_norm=which)
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                assert parametrize.is_parametrized(module) == isinstance(module, kinds), which
    latent = LatentEnergy(SNGANFeatures(size=8, width=16, spectral_norm="all"), marginal="linear")
    assert not any(map(parametrize.is_parametrized, [latent.linear, *latent.projection]))


def vectors(net):
    return [b.clone() for name, b in net.named_buffers() if name.endswith("_u")]


def normalised_pair():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5, 4))
    spectral_norm_(net, "all")
    return net


def moved(before, after):
    return [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]


def test_spectral_norm_is_frozen_in_eval():
    net, x = normalised_pair().eval(), torch.randn(2, 2, 3, 3)
    before, first = vectors(net), net(x)
    assert torch.equal(net(x), first)
    assert not any(moved(before, vectors(net)))


def test_one_power_iteration_for_each_cached_context():
    net, x = normalised_pair().train(), torch.randn(2, 2, 3, 3)
    reference = deepcopy(net)
    with parametrize.cached():
        for _ in range(5):
            net(x)
    reference(x)
    assert all(moved(vectors(normalised_pair()), vectors(net)))
    assert not any(moved(vectors(reference), vectors(net)))


def test_spectral_norm_can_be_copied_and_averaged():
    net, x = normalised_pair().eval(), torch.randn(2, 2, 3, 3)
    assert torch.equal(deepcopy(net)(x), net(x))
    average = AveragedModel(net, avg_fn=lambda old, new, _: (old + new) / 2)
    average.update_parameters(net)
    with torch.no_grad():
        for layer in (net[0], net[3]):
            layer.parametrizations.weight.original.mul_(3.0)
    average.update_parameters(net)
    originals = [m[0].parametrizations.weight.original for m in (average.module, net)]
    torch.testing.assert_close(originals[0] * 1.5, originals[1])
    # W/σ(W) does not depend on the scale of W: two thirds of the weights make the same function.
    torch.testing.assert_close(average.eval()(x), net(x))


@pytest.mark.parametrize(
    ("channels", "width", "blocks", "size", "dim"),
    [(1, 32, (1, 1), 8, 64), (3, 8, (2, 2, 2, 2), 32, 64), (3, 4, [1], 5, 4)],
)
def test_encoder_lands_on_the_sphere(channels, width, blocks, size, dim):
    torch.manual_seed(0)
    none = dict.fromkeys(("mean", "std")) if channels == 1 else {}
    encoder = ResNetEncoder(channels, width, blocks, latent=6, hidden=10, **none)
    x = torch.rand(4, channels, size, size) * 2 - 1
    assert encoder.features(x).shape == (4, dim) == (4, encoder.feature_dim)
    torch.testing.assert_close(encoder(x).norm(dim=1), torch.ones(4))
    assert encoder(x).shape == (4, encoder.latent)


def test_a_zero_representation_has_no_nan():
    encoder = ResNetEncoder(1, 4, (1,), latent=3, hidden=6, mean=None, std=None).eval()
    for p in encoder.head.parameters():
        nn.init.zeros_(p)
    x = torch.randn(2, 1, 4, 4, requires_grad=True)
    z = encoder(x)
    z.sum().backward()
    assert torch.equal(z, torch.zeros(2, 3))
    assert x.grad.isfinite().all()


def test_encoder_standardises_inside():
    torch.manual_seed(0)
    mean, std = (0.1, 0.5, 0.7), (0.2, 0.3, 0.4)
    inside = ResNetEncoder(3, 4, (1,), mean=mean, std=std).eval()
    outside = ResNetEncoder(3, 4, (1,), mean=None, std=None).eval()
    outside.load_state_dict({k: v for k, v in inside.state_dict().items() if k not in ("mean", "std")})
    u = torch.rand(2, 3, 6, 6)
    standardised = (u - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(inside.features(2 * u - 1), outside.features(2 * standardised - 1), rtol=1e-5, atol=1e-6)


def test_unfit_encoder_arguments_are_refused():
    with pytest.raises(UserError, match=r"mean: .* 1 channel"):
        ResNetEncoder(in_channels=1)
    with pytest.raises(UserError, match="blocks"):
        ResNetEncoder(blocks=())


def test_divisors_are_the_widths_of_the_blocks_and_change_nothing_if_they_are_the_standard_ones():
    narrow = SNGANEnergy(1, 32, 16, divisors=(8, 4, 2, 1))
    assert [block.conv2.out_channels for block in narrow.trunk.blocks] == [2, 4, 8, 16]
    assert narrow(torch.zeros(2, 1, 32, 32)).shape == (2,)
    generator = SNGANGenerator(3, 1, 32, 16, divisors=(2, 4, 8))
    assert [block.conv2.out_channels for block in generator.blocks] == [8, 4, 2]
    assert generator(torch.zeros(2, 3)).shape == (2, 1, 32, 32)
    assert count(SNGANFeatures(width=16, divisors=(1, 1, 1, 1))) == count(SNGANFeatures(width=16))
    with pytest.raises(UserError, match=r"divisors: \[1, 2\] must be 4 numbers of 1 or more, .* at size 32"):
        SNGANEnergy(size=32, width=16, divisors=(1, 2))
    with pytest.raises(UserError, match=r"width: 16 must be a positive multiple of 3"):
        SNGANGenerator(3, 1, 32, 16, divisors=(1, 3, 3))
