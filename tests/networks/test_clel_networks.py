"""CLEL's networks: parameter counts, the trunk written out, the separation of norm and direction, spectral norms."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from ebmzoo.energy import gradient
from ebmzoo.errors import UserError
from ebmzoo.networks import CLELEnergy, CLELFeatures, MultiHeadEnergy, ResNetEncoder, SNGANFeatures
from ebmzoo.sampling.latent_energies import Joint

SMALL, BASE, LARGE = (
    {"width": 64, "depth": 1},
    {"width": 128, "depth": 2},
    {"width": 256, "multiples": (1, 1, 1, 1), "depth": 2},
)
PLAIN = {"in_channels": 1, "width": 4, "multiples": (1, 2), "depth": 2, "hidden": 7, "latent": 6}
PLAIN |= {"mean": None, "std": None, "spectral_norm": "none"}


def count(module):
    return sum(p.numel() for p in module.parameters())


def awake(module):
    """Linear layers that are not almost zero, as they are at the start."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.5)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, 0.0, 0.5)
    return module


def energies():
    """Each kind of energy, on a small trunk in double precision."""
    torch.manual_seed(0)
    kinds = {name: CLELEnergy(CLELFeatures(**PLAIN), 6, 9, name) for name in ("mlp", "linear", "identity")}
    return {n: awake(e).double() for n, e in (kinds | {"heads": MultiHeadEnergy(CLELFeatures(**PLAIN), 6, 9)}).items()}


@pytest.mark.parametrize(
    ("settings", "scales", "expected"),
    [(SMALL, 1, 1_725_056), (BASE, 1, 6_955_648), (BASE, 3, 19_289_728), (LARGE, 3, 30_706_816)],
)
def test_parameters_of_the_paper_count_the_projection(settings, scales, expected):
    with torch.device("meta"):
        trunk = CLELFeatures(**settings, scales=scales, spectral_norm="none")  # which adds none
        assert count(CLELEnergy(trunk)) == expected
        assert count(trunk) == expected - 2 * 128 * 2048


def test_parameters_of_the_encoder():
    with torch.device("meta"):
        clel = ResNetEncoder(latent=128, hidden=2048, hidden_bias=False, last_norm=False, zero_init_residual=True)
        assert count(clel) == 12_483_776
        assert count(clel.head) == 512 * 2048 + 2 * 2048 + 2048 * 128 + 128


def test_residual_blocks_begin_as_their_shortcuts_only_if_configured():
    torch.manual_seed(0)
    usual = ResNetEncoder(1, 4, (1, 1), 3, 5, None, None)
    torch.manual_seed(0)
    zero = ResNetEncoder(1, 4, (1, 1), 3, 5, None, None, zero_init_residual=True).eval()
    h = torch.rand(2, 4, 8, 8)
    torch.testing.assert_close(zero.backbone[3](h), h, rtol=0, atol=0)
    assert not torch.equal(usual.eval().backbone[3](h), h)
    differ = {k for k, v in usual.state_dict().items() if not torch.equal(v, zero.state_dict()[k])}
    assert differ == {"backbone.3.bn2.weight", "backbone.4.bn2.weight"}
    assert isinstance(usual.head[-1], nn.BatchNorm1d)


def leaky(x):
    return torch.where(x > 0, x, 0.2 * x)


def test_trunk_is_the_equation():
    """Two scales, two stages of two blocks, written out."""
    torch.manual_seed(0)
    net = awake(CLELFeatures(**PLAIN | {"scales": 2, "mean": (0.3,), "std": (0.4,)})).double()
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    s = (x - 0.3) / 0.4
    small = (s[..., ::2, ::2] + s[..., 1::2, ::2] + s[..., ::2, 1::2] + s[..., 1::2, 1::2]) / 4
    pooled = []
    for h, layers in zip((s, small), net.towers, strict=True):
        stem, *rest = layers
        h = F.conv2d(h, stem.weight, stem.bias, padding=1)
        for i, block in zip(range(5), rest, strict=False):
            if i == 2:
                assert isinstance(block, nn.Identity)
                h = F.avg_pool2d(h, 2)
                continue
            y = F.conv2d(leaky(h), block.conv1.weight, block.conv1.bias, padding=1)
            y = F.conv2d(leaky(y), block.conv2.weight, block.conv2.bias, padding=1)
            h = y + (F.conv2d(h, block.shortcut.weight) if i == 3 else h)
        pooled.append(leaky(h).mean((2, 3)))
    first, _, last = net.head
    want = leaky(torch.cat(pooled, 1) @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(net(x), want)


@pytest.mark.parametrize(("channels", "size", "scales"), [(1, 8, 1), (1, 8, 3), (3, 32, 3), (3, 64, 1)])
def test_shapes_down_to_eight_pixels(channels, size, scales):
    net = CLELFeatures(channels, 4, depth=1, scales=scales, hidden=8, latent=5, mean=None, std=None)
    assert net(torch.rand(2, channels, size, size)).shape == (2, 5)
    assert not net.homogeneous


def test_layers_begin_as_in_the_authors_code():
    torch.manual_seed(0)
    net = CLELEnergy(CLELFeatures(width=16, hidden=512, latent=64, spectral_norm="none"), latent=64, hidden=512)
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 2000:
            fan_in = layer.weight[0].numel()
            assert float(layer.weight.detach().std()) == pytest.approx(fan_in**-0.5, rel=0.1)
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
            assert not layer.bias.any()
    assert [layer.bias for layer in net.projection if isinstance(layer, nn.Linear)] == [None, None]


def test_marginals_and_projections_are_the_equations():
    f = torch.randn(5, 6, dtype=torch.float64)
    for name, net in energies().items():
        if name == "heads":
            first, _, last = net.head
            want = (leaky(f @ first.weight.T + first.bias) @ last.weight.T + last.bias)[:, 0]
        else:
            want = sum(f[:, i] ** 2 for i in range(6)) / 2
        torch.testing.assert_close(net.marginal(f), want)
        x = torch.rand(5, 1, 8, 8, dtype=torch.float64)
        torch.testing.assert_close(net(x), net.marginal(net.trunk(x)), rtol=0, atol=0)
    nets = energies()
    torch.testing.assert_close(nets["identity"].project(f), f, rtol=0, atol=0)
    torch.testing.assert_close(nets["linear"].project(f), f @ nets["linear"].projection.weight.T)
    for name in ("mlp", "heads"):
        first, _, last = nets[name].projection
        torch.testing.assert_close(nets[name].project(f), leaky(f @ first.weight.T) @ last.weight.T)


@pytest.mark.parametrize("name", ["mlp", "linear", "identity", "heads"])
def test_projections_depend_on_the_direction_only(name):
    """cos(g(cf), z) = cos(g(f), z) for c > 0, so its gradient is orthogonal to f; that of ‖f‖²/2 is f itself."""
    net, f, z = energies()[name], torch.randn(5, 6).double(), torch.randn(5, 6).double()
    cos = F.cosine_similarity(net.project(f), z)
    for c in (0.01, 3.0):
        torch.testing.assert_close(F.cosine_similarity(net.project(c * f), z), cos)
    grad = gradient(lambda f: F.cosine_similarity(net.project(f), z), f)
    assert float((grad * f).sum(1).abs().max()) < 1e-12
    assert float(grad.norm(dim=1).min()) > 1e-3
    if name != "heads":
        torch.testing.assert_close(gradient(net.marginal, f), f)
        turned = f[:, torch.tensor([1, 0, 2, 3, 5, 4])]
        torch.testing.assert_close(net.marginal(turned), net.marginal(f))


def test_the_marginal_is_the_joint_without_its_latents():
    """log ∫ exp(−E(x, z)) dz + E(x) does not depend on x: on the circle the sum over 64 angles is exact (law 4)."""
    torch.manual_seed(0)
    net = awake(CLELEnergy(CLELFeatures(**PLAIN), latent=2, hidden=9)).double()
    x, angles = torch.rand(5, 1, 8, 8, dtype=torch.float64), torch.arange(64).double() * 2 * torch.pi / 64
    z = torch.stack([angles.cos(), angles.sin()], 1)
    joint = torch.stack([Joint(net, 1.3)(one.expand(64, -1, -1, -1), z) for one in x])
    gap = torch.logsumexp(-joint, 1) - math.log(64) + net(x)
    torch.testing.assert_close(
        gap, torch.special.i0(torch.tensor(1.3, dtype=torch.float64)).log().expand(5), rtol=1e-10, atol=1e-10
    )
    assert float(net(x).std()) > 0


def test_contradictions_are_refused():
    with pytest.raises(UserError, match="latent: 7 must be that of f, 6"):
        CLELEnergy(CLELFeatures(**PLAIN), latent=7, projection="identity")
    with pytest.raises(UserError, match="bias"):
        CLELEnergy(SNGANFeatures(size=8, width=8, bias="none"))
    with pytest.raises(UserError, match="depth: 0"):
        CLELFeatures(depth=0)
    with pytest.raises(UserError, match=r"mean: \[0.5\] must have one value for each of the 3"):
        CLELFeatures(mean=(0.5,))


def test_convolutions_are_normalised_to_one_and_frozen_in_eval():
    torch.manual_seed(0)
    net = CLELEnergy(CLELFeatures(**PLAIN | {"spectral_norm": "conv", "depth": 1}), latent=6, hidden=9)
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == 1 + 2 * 2 + 1
    assert all(map(parametrize.is_parametrized, layers))
    assert not any(parametrize.is_parametrized(m) for m in net.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        for _ in range(1000):
            _ = [layer.weight for layer in layers]
        net.eval()
        for layer in layers:
            assert float(torch.linalg.matrix_norm(layer.weight.flatten(1), 2)) == pytest.approx(1.0, abs=1e-4)
    before, x = [b.clone() for b in net.buffers()], torch.rand(2, 1, 8, 8)
    assert torch.equal(net(x), net(x))
    assert all(torch.equal(a, b) for a, b in zip(before, net.buffers(), strict=True))


def test_energies_are_float32_under_autocast():
    torch.manual_seed(0)
    nets = [CLELEnergy(CLELFeatures(**PLAIN), 6, 9), MultiHeadEnergy(CLELFeatures(**PLAIN), 6, 9)]
    x = torch.rand(2, 1, 8, 8)
    for net in map(awake, nets):
        f = net.features(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert net.features(x).dtype == net(x).dtype == torch.float32
            low = net.marginal(f), net.project(f)
        assert torch.equal(low[0], net.marginal(f))
        assert torch.equal(low[1], net.project(f))
