"""The networks of DRL and CDRL, of images and of points: parameter counts, the equations written out, their laws."""

import math
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from ebmzoo.errors import UserError
from ebmzoo.networks import unet
from ebmzoo.networks.embedding import TimeEmbedding, sinusoidal
from ebmzoo.networks.plane import (
    PlaneEnergy,
    PlaneEnergyNet,
    PlaneFeatures,
    PlaneGenerator,
    PlaneInference,
    PlaneInitializer,
)
from ebmzoo.networks.plane_classes import PlaneClassEnergy
from ebmzoo.networks.plane_denoiser import PlaneDenoiser
from ebmzoo.networks.recovery import RecoveryResNet
from ebmzoo.networks.spectral import bounded_spectral_norm_
from ebmzoo.networks.unet import UNet

TINY = {"in_channels": 1, "width": 4, "multiples": (1, 2), "embedding": 6}
SMALL = {
    "resnet": lambda **k: RecoveryResNet(**TINY | {"depth": 2} | k),
    "plane": lambda **k: PlaneEnergy(width=4, multiples=(1, 2), embedding=6, **k),
    "unet": lambda **k: UNet(**TINY | {"depth": 1, "attention": (1,), "groups": 2} | k),
    "mlp": lambda **k: PlaneInitializer(width=6, depth=2, embedding=5, **k),
}
ENERGIES = ("resnet", "plane")


def count(module):
    return sum(p.numel() for p in module.parameters())


@torch.no_grad()
def awake(module):
    """The module in double precision, with no parameter at a special value, and without dropout."""
    for p in module.parameters():
        p.copy_(torch.randn_like(p) * 0.4)
    return module.double().eval()


def images(name, n=3, size=8):
    return torch.randn(n, 2, 1, 1).double() if name in ("plane", "mlp") else torch.randn(n, 1, size, size).double()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 34_833_152),
        ({"depth": 2}, 9_056_000),
        ({"width": 256, "embedding": 1024}, 139_265_536),
        ({"multiples": (1, 2, 2, 2, 2)}, 45_327_104),
        ({"multiples": (1, 2, 2, 2, 2), "depth": 2}, 11_679_488),
    ],
)
def test_parameters_of_the_energy(settings, expected):
    with torch.device("meta"):
        assert count(RecoveryResNet(**settings, spectral_norm="none")) == expected  # norms add none, tested below


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 3_769_795),
        ({"depth": 2}, 2_924_931),
        ({"depth": 2, "classes": 1000}, 2_924_931 + 256_512),
        # The proposed networks of Denoising-EBM, without the layers between 128 (192, 256) channels of 4×4 and 128.
        ({"depth": 2, "multiples": (1, 2, 2, 2)}, 11_591_043 - 526_464),
        ({"depth": 2, "multiples": (1, 2, 2, 2), "width": 96, "embedding": 384}, 25_653_251 - 789_632),
        ({"depth": 2, "multiples": (1, 2, 2, 2), "width": 128, "embedding": 512}, 45_226_627 - 1_052_800),
    ],
)
def test_parameters_of_the_unet(settings, expected):
    with torch.device("meta"):
        assert count(UNet(**settings)) == expected


def test_sinusoids_are_the_formula():
    time = torch.tensor([0.0, 1.0, 999.5])
    made = sinusoidal(time, 6)
    assert made.dtype == torch.float32
    want = [
        [wave(t * w) for wave in (math.sin, math.cos) for w in (1.0, 10000**-0.5, 1e-4)]  # of half − 1 = 2 steps
        for t in time.tolist()
    ]
    torch.testing.assert_close(made, torch.tensor(want), rtol=0, atol=1e-4)
    torch.testing.assert_close(made[0], torch.tensor([0.0, 0, 0, 1, 1, 1]), rtol=0, atol=0)


def test_time_embedding_is_the_equation():
    torch.manual_seed(0)
    net = awake(TimeEmbedding(4, 5, 3, F.silu))
    time, labels = torch.tensor([0.3, 7.0]).double(), torch.tensor([2, -1])
    h = F.silu(sinusoidal(time, 4).double() @ net.first.weight.T + net.first.bias)
    want = h @ net.second.weight.T + net.second.bias + net.label.weight.T[labels + 1] + net.label.bias
    torch.testing.assert_close(net(time, labels), want)


def leaky(x):
    return torch.where(x > 0, x, 0.2 * x)


def apply(layer, x):
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, layer.weight, layer.bias, padding=1)
    return x @ layer.weight.T + layer.bias


@pytest.mark.parametrize("name", ENERGIES)
def test_energy_is_the_equation(name):
    """Two stages, written out."""
    torch.manual_seed(0)
    net = awake(SMALL[name](spectral_norm="none"))
    x, time = images(name), torch.tensor([0.0, 1.5, 30.0]).double()
    temb, tower = net.tower.embed(time), net.tower
    h = apply(tower.first, x if name == "resnet" else x[:, :, 0, 0])
    spread = (..., None, None) if name == "resnet" else (...,)
    for i, blocks in enumerate(tower.stages):
        if i == 1 and name == "resnet":
            h = (h[..., ::2, ::2] + h[..., 1::2, ::2] + h[..., ::2, 1::2] + h[..., 1::2, 1::2]) / 4
        for j, block in enumerate(blocks):
            y = apply(block.layer1, leaky(h)) + leaky(apply(block.time, leaky(temb)))[spread]
            y = block.gain * apply(block.layer2, leaky(y))
            h = y + (apply(block.shortcut, h) if (i, j) == (1, 0) else h)
    pooled = h.clamp(min=0).sum((2, 3)) if name == "resnet" else h.clamp(min=0)
    torch.testing.assert_close(net(x, time), -(pooled * (leaky(temb) @ tower.last.weight.T)).sum(1))


@pytest.mark.parametrize("name", SMALL)
def test_no_class_can_be_passed_in_three_ways(name):
    torch.manual_seed(0)
    net, x, time = awake(SMALL[name](classes=3)), images(name), torch.tensor([0.0, 1.5, 30.0]).double()
    absent = net(x, time)
    torch.testing.assert_close(net(x, time, None), absent, rtol=0, atol=0)
    torch.testing.assert_close(net(x, time, torch.full((3,), -1)), absent, rtol=0, atol=0)
    each = [net(x, time, torch.full((3,), c)) for c in range(3)]
    for i, a in enumerate([absent, *each]):
        for b in each[i:]:  # those after a, for `absent` is the first
            assert (a - b).abs().reshape(3, -1).amax(1).min() > 1e-6
    mixed = net(x, time, torch.tensor([1, -1, 2]))
    torch.testing.assert_close(mixed, torch.stack([each[1][0], absent[1], each[2][2]]))
    plain = awake(SMALL[name]())
    assert (net.classes, plain.classes) == (3, 0)
    assert torch.equal(plain(x, time, torch.tensor([1, 0, 2])), plain(x, time))


@pytest.mark.parametrize("name", SMALL)
def test_images_of_a_batch_are_independent(name):
    torch.manual_seed(0)
    net, x, time = awake(SMALL[name]()), images(name), torch.tensor([0.0, 1.5, 30.0]).double()
    together = net(x, time)
    alone = torch.cat([net(x[i : i + 1], time[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)
    assert together.shape == ((3,) if name in ENERGIES else x.shape)
    # ... and each has its own level.
    assert (net(x, time + 1) - together).abs().reshape(3, -1).amax(1).min() > 1e-6


@pytest.mark.parametrize("name", SMALL)
def test_first_and_second_derivatives(name):
    """Of the image and, through the frozen spectral norm of an energy, of the first layer's weight."""
    torch.manual_seed(0)
    net, x = awake(SMALL[name]()), images(name, 2, 2)
    time = torch.tensor([0.2, 3.0]).double()
    key = next(k for k, _ in net.named_parameters() if ".first." in f".{k}" and "embed" not in k and "bias" not in k)
    weight = dict(net.named_parameters())[key].detach().requires_grad_()
    assert ("original" in key) == (name in ENERGIES)

    def f(x, weight):
        return functional_call(net, {key: weight}, (x, time))

    assert torch.autograd.gradcheck(f, (x.requires_grad_(), weight))
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have a first derivative only
        assert torch.autograd.gradgradcheck(f, (x, weight))


@pytest.mark.parametrize("size", [8, 16, 32])
def test_shapes(size):
    x, time = torch.randn(2, 3, size, size), torch.tensor([1.0, 2.0])
    assert RecoveryResNet(width=4, depth=1, embedding=8)(x, time).shape == (2,)
    assert UNet(width=6, depth=1, embedding=8)(x, time).shape == x.shape
    assert UNet(width=6, depth=1, embedding=8, out_channels=5)(x, time).shape == (2, 5, size, size)
    assert RecoveryResNet(width=4, depth=1, embedding=8)(x[:, :, :8], time).shape == (2,)


@pytest.mark.parametrize("name", SMALL)
def test_the_memory_format_changes_nothing(name):
    torch.manual_seed(0)
    net, x, time = awake(SMALL[name]()), images(name), torch.tensor([0.0, 1.5, 30.0]).double()
    x = x.expand(-1, 2, -1, -1) if name in ENERGIES[:1] else x
    net = awake(SMALL[name](in_channels=2)) if name == "resnet" else net
    want, last = net(x, time), x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(net(last, time), want)
    torch.testing.assert_close(deepcopy(net).to(memory_format=torch.channels_last)(last, time), want)


@pytest.mark.parametrize("name", SMALL)
def test_autocast_keeps_the_output_in_float32(name):
    torch.manual_seed(0)
    net, x, time = awake(SMALL[name](classes=2)).float(), images(name).float(), torch.tensor([0.0, 1.5, 30.0])
    full = net(x, time).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = net(x, time)
    assert low.dtype == full.dtype == torch.float32
    assert not torch.equal(low, full)  # the layers inside are in half precision
    torch.testing.assert_close(low, full, rtol=0.05, atol=0.05 * float(full.abs().max()))


def test_the_sum_over_pixels_is_float32_under_autocast():
    torch.manual_seed(0)
    net = RecoveryResNet(1, 4, (1,), 1, 6, spectral_norm="bounded", zero_init=True).eval()
    x, time, seen = torch.randn(2, 1, 32, 32), torch.tensor([1.0, 2.0]), []
    net.tower.first.register_forward_hook(lambda *a: seen.append(a[2]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        energy = net(x, time)
    assert seen[0].dtype == torch.bfloat16
    last = leaky(net.tower.embed(time)) @ net.tower.last.weight.T
    torch.testing.assert_close(energy, -(seen[0].float().clamp(min=0).sum((2, 3)) * last).sum(1))


# ── spectral norms ──────────────────────────────────────────────────────────────────────────────────────────────────


def normalised(layer):
    """How a layer's weight is normalised."""
    return type(layer.parametrizations.weight[0]).__name__ if parametrize.is_parametrized(layer) else "none"


def test_spectral_norms_apply_to_the_layers_of_their_option():
    def kinds(net):
        layers = {n: m for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        return {normalised(m) for n, m in layers.items() if "layer2" not in n and n != "tower.last"}, {
            normalised(m) for n, m in layers.items() if "layer2" in n
        }

    for name in ENERGIES:
        nets = {which: SMALL[name](spectral_norm=which, classes=2) for which in ("plain", "bounded", "none")}
        assert {count(net) for net in nets.values()} == {count(nets["none"])}
        assert {normalised(net.tower.last) for net in nets.values()} == {"none"}
        assert kinds(nets["none"]) == ({"none"}, {"none"})
        assert kinds(nets["plain"]) == ({"_SpectralNorm"}, {"_SpectralNorm"})
        assert kinds(nets["bounded"]) == ({"_SpectralNorm"}, {"_Bounded"})


def bounded(kind, top):
    """A layer of largest singular value `top`, the others half of it, and that matrix."""
    torch.manual_seed(0)
    layer = nn.Linear(18, 5) if kind == "linear" else nn.Conv2d(2, 5, 3)
    layer = layer.double()
    left, _, right = torch.linalg.svd(layer.weight.detach().flatten(1), full_matrices=False)
    matrix = left @ torch.diag(torch.tensor([1.0, 0.5, 0.5, 0.5, 0.5]).double() * top) @ right
    with torch.no_grad():
        layer.weight.copy_(matrix.view_as(layer.weight))
    bounded_spectral_norm_(layer)
    return layer.train(), matrix


def read(layer, times):
    for _ in range(times):
        weight = layer.weight
    return weight.detach().flatten(1)


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("top", [1e-3, 0.5, 0.999, 1.001, 4.0, 1e3])
def test_a_bounded_weight_has_norm_one_at_most(kind, top):
    layer, matrix = bounded(kind, top)
    weight = read(layer, 30)
    assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(min(1.0, top), rel=1e-9)
    torch.testing.assert_close(weight, matrix / max(1.0, top))
    if top < 1:
        assert torch.equal(weight, matrix)


def test_a_bounded_weight_of_zeros_stays_zero_and_can_leave():
    layer, matrix = bounded("conv", 4.0)
    original = layer.parametrizations.weight.original
    with torch.no_grad():
        original.zero_()
        assert not read(layer, 20).any()
        original.copy_(matrix.view_as(original))
    assert float(torch.linalg.matrix_norm(read(layer, 40), 2)) == pytest.approx(1.0, rel=1e-9)


def test_a_bounded_gradient_leaves_the_norm_alone_above_one_only():
    """W/σ does not change along W; below one the weight is W itself."""
    for top in (0.5, 4.0):
        layer, matrix = bounded("linear", top)
        read(layer, 40)
        slope = torch.randn(5, 18, dtype=torch.float64)
        original = layer.parametrizations.weight.original
        (grad,) = torch.autograd.grad((layer.weight * slope).sum(), original)
        along = float((grad * matrix).sum() / (grad.norm() * matrix.norm()))
        if top > 1:
            assert abs(along) < 1e-9
        else:
            assert torch.equal(grad, slope)


def moved(before, layer):
    return [not torch.equal(a, b) for a, b in zip(before, layer.buffers(), strict=True)]


def test_bounded_vectors_move_once_a_context_in_training_only():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 7, 3)
    bounded_spectral_norm_(layer)
    x = torch.randn(2, 3, 5, 5)
    before, once = [b.clone() for b in layer.buffers()], deepcopy(layer)
    assert len(before) == 2
    assert {k.rsplit(".", 1)[-1] for k in layer.state_dict()} == {"bias", "original", "_u", "_v"}
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    assert moved(before, layer) == [False, False]
    layer.train()
    with parametrize.cached():
        for _ in range(5):
            layer(x)
    once.train()(x)
    assert moved(before, layer) == [True, True]
    assert moved(list(once.buffers()), layer) == [False, False]
    # Two readings and one gradient, as of an energy at data and at chains.
    (layer(x).sum() - layer(2 * x).sum()).backward()
    assert layer.parametrizations.weight.original.grad.isfinite().all()


def test_a_bounded_network_can_be_averaged_and_loaded():
    torch.manual_seed(0)
    net, other = (SMALL["resnet"](spectral_norm="bounded") for _ in range(2))
    x, time = torch.randn(2, 1, 8, 8), torch.tensor([1.0, 2.0])
    average = AveragedModel(net)
    average.update_parameters(net)
    other.load_state_dict(net.state_dict())
    want = net.eval()(x, time)
    assert torch.equal(average.eval()(x, time), want)
    assert torch.equal(other.eval()(x, time), want)


def test_zero_init_makes_blocks_their_shortcuts():
    torch.manual_seed(0)
    net = SMALL["resnet"](spectral_norm="bounded", zero_init=True).train()
    h, temb = torch.randn(2, 4, 8, 8), torch.randn(2, 6)
    for block in net.tower.stages[0]:
        assert torch.equal(block(h, temb), F.avg_pool2d(h, 2) if block.down else h)
    widening, same = net.tower.stages[1]
    wide = net.tower.eval().stages[1][0](h, temb)
    assert torch.equal(wide, widening.shortcut(h))
    assert torch.equal(same(wide, temb), wide)
    usual = SMALL["resnet"](spectral_norm="bounded").tower.stages[0][0]
    assert not torch.equal(usual(h, temb), h)
    # ... and they learn to be more: the first gradient step reaches the zeros, and the block with it.
    net.train()(torch.randn(2, 1, 8, 8), torch.tensor([1.0, 2.0])).sum().backward()
    assert net.tower.stages[0][0].layer2.parametrizations.weight.original.grad.abs().max() > 0


# ── the U-Net ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_initializers_begin_at_zero():
    torch.manual_seed(0)
    for name, settings in (("unet", {"zero_bias": True}), ("mlp", {})):
        net, x = SMALL[name](classes=2, **settings).double(), images(name)
        assert torch.equal(net(x, torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0, -1, 1])), torch.zeros_like(x))


def test_the_zero_convolutions_of_a_unet_keep_their_biases_as_in_the_code():
    torch.manual_seed(0)
    net, x = SMALL["unet"](), images("unet").float()
    zero = [net.up.last, *(m.conv2 for m in net.modules() if isinstance(m, unet.UNetResBlock))]
    zero += [m.project for m in net.modules() if isinstance(m, unet.UNetAttention)]
    assert len(zero) > 5
    for layer in zero:
        assert not layer.weight.any()
        assert layer.bias.all()
    out = net.eval()(x, torch.tensor([0.0, 1.0, 2.0]))
    torch.testing.assert_close(out, net.up.last.bias.view(1, 1, 1, 1).expand_as(out))
    assert 0 < float(out.detach().abs().max()) < 0.2


def settings(**changes):
    return unet.BlockSettings(**{"embedding": 5, "heads": 1, "dropout": 0.0, "groups": 2} | changes)


def group_norm(norm, x):
    parts = x.reshape(len(x), norm.num_groups, -1)
    parts = (parts - parts.mean(-1, keepdim=True)) / (parts.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
    return parts.reshape(x.shape) * norm.weight[:, None, None] + norm.bias[:, None, None]


@pytest.mark.parametrize("resample", ["none", "down", "up"])
@pytest.mark.parametrize("out", [4, 6])
def test_unet_block_is_the_equation(resample, out):
    torch.manual_seed(0)
    layer = {"none": None, "down": nn.AvgPool2d(2), "up": nn.UpsamplingNearest2d(scale_factor=2)}[resample]
    block = unet.UNetResBlock(4, out, settings(), layer)
    temb, x = torch.randn(3, 5).double(), torch.randn(3, 4, 4, 4).double()
    begins = (x if layer is None else layer(x)) + block.double().conv2.bias[:, None, None] if out == 4 else None
    assert begins is None or torch.equal(block(x, temb), begins)  # the last convolution's weight is zero, its bias not
    block = awake(block)
    r = {
        "none": lambda x: x,
        "down": lambda x: (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4,
        "up": lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3),
    }[resample]
    scale, shift = (F.silu(temb) @ block.time.weight.T + block.time.bias)[:, :, None, None].tensor_split(2, 1)
    h = apply(block.conv1, r(F.silu(group_norm(block.norm1, x))))
    h = apply(block.conv2, F.silu((1 + scale) * group_norm(block.norm2, h) + shift))
    short = r(x) if out == 4 else F.conv2d(r(x), block.shortcut.weight, block.shortcut.bias)
    torch.testing.assert_close(block(x, temb), h + short)


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_the_equation(heads):
    torch.manual_seed(0)
    layer, x = awake(unet.UNetAttention(4, settings(heads=heads))), torch.randn(2, 4, 2, 3).double()
    q, k, v = F.conv2d(group_norm(layer.norm, x), layer.qkv.weight, layer.qkv.bias).flatten(2).split(4, 1)
    c = 4 // heads
    made = []
    for i in range(0, 4, c):
        one = slice(i, i + c)
        weights = torch.softmax(q[:, one].transpose(1, 2) @ k[:, one] / math.sqrt(c), -1)
        made.append(v[:, one] @ weights.transpose(1, 2))
    h = F.conv2d(torch.cat(made, 1).view_as(x), layer.project.weight, layer.project.bias)
    torch.testing.assert_close(layer(x), x + h)


def test_unet_is_its_halves_and_every_skip_counts():
    torch.manual_seed(0)
    net = awake(UNet(1, width=4, multiples=(1, 2, 3), depth=2, attention=(2,), embedding=6, groups=2))
    x, time = torch.randn(2, 1, 8, 8).double(), torch.tensor([1.0, 2.0])
    temb = net.embed(time)
    h, skips = net.encode(x, temb)
    assert h.shape == (2, 12, 2, 2)
    assert [(s.shape[1], s.shape[2]) for s in skips] == [
        *[(4, 8), (4, 8), (4, 8)],
        *[(4, 4), (8, 4), (8, 4)],
        *[(8, 2), (12, 2), (12, 2)],
    ]
    want = net.decode(h, skips, temb)
    torch.testing.assert_close(net(x, time), want, rtol=0, atol=0)
    assert len(skips) == 9
    for i in range(9):
        without = [torch.zeros_like(s) if i == j else s for j, s in enumerate(skips)]
        assert (net.decode(h, without, temb) - want).abs().max() > 1e-6, i
    attention = [n.split(".")[0] for n, m in net.named_modules() if isinstance(m, unet.UNetAttention)]
    assert attention == ["down"] * 2 + ["middle"] + ["up"] * 3


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    net, x, time = awake(SMALL["unet"](dropout=0.5)), images("unet"), torch.tensor([0.0, 1.0, 2.0])
    assert torch.equal(net(x, time), net(x, time))
    net.train()
    assert not torch.equal(net(x, time), net(x, time))
    sure = awake(SMALL["unet"](dropout=0.0)).train()
    assert torch.equal(sure(x, time), sure(x, time))


# ── points of the plane ─────────────────────────────────────────────────────────────────────────────────────────────


def test_energies_and_generators_of_points():
    torch.manual_seed(0)
    x = torch.randn(5, 2, 1, 1).double()
    features = awake(PlaneFeatures(width=7, depth=2, out_features=3))
    one, _, two, _, three = features.layers
    h = F.silu(apply(two, F.silu(apply(one, x[:, :, 0, 0]))))
    torch.testing.assert_close(features(x), apply(three, h))
    assert not features.homogeneous
    assert features.out_features == 3
    energy = awake(PlaneEnergyNet(width=7, depth=1))
    torch.testing.assert_close(energy(x), energy.trunk(x)[:, 0], rtol=0, atol=0)
    generator = awake(PlaneGenerator(latent=4, width=7, depth=1))
    m = torch.randn(5, 4).double()
    points = generator(m)
    assert points.shape == (5, 2, 1, 1)
    torch.testing.assert_close(points[:, :, 0, 0], apply(generator.layers[2], F.silu(apply(generator.layers[0], m))))
    assert generator(1e4 * m).abs().max() > 100  # no bound
    inference = awake(PlaneInference(latent=3, width=7, depth=1))
    mu, logvar = inference(x)
    both = apply(inference.layers[2], F.silu(apply(inference.layers[0], x[:, :, 0, 0])))
    assert mu.shape == logvar.shape == (5, 3)
    torch.testing.assert_close(torch.cat([mu, logvar], 1), both)
    classifier = awake(PlaneClassEnergy(classes=3, width=7, depth=2))
    logits = apply(classifier.last, F.silu(classifier.trunk(x)))
    torch.testing.assert_close(classifier.logits(x), logits)
    torch.testing.assert_close(classifier(x), -logits.exp().sum(1).log())
    last = x.contiguous(memory_format=torch.channels_last)
    for net in (features, energy):
        torch.testing.assert_close(net(last), net(x))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert net.float()(x.float()).dtype == generator.float()(m.float()).dtype == torch.float32


def test_a_denoiser_of_points():
    torch.manual_seed(0)
    x, sigma = torch.randn(5, 2, 1, 1).double(), torch.rand(5).double() + 0.1
    fresh = PlaneDenoiser(latent=3, width=8).double()
    torch.testing.assert_close(fresh(x, sigma), x, rtol=0, atol=0)  # as the last layer is zero
    net = awake(PlaneDenoiser(latent=3, width=8, depth=1))
    restored, z = net.both(x, sigma)
    torch.testing.assert_close(net.encode(x, sigma), z, rtol=0, atol=0)
    temb = net.embed(25 * sigma.log())
    h = net.down[0](apply(net.first, x[:, :, 0, 0]), temb)
    code = apply(net.bottleneck, F.silu(h))
    centred = code - code.mean(1, keepdim=True)
    torch.testing.assert_close(z, centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt())
    up = net.up[0](h + apply(net.expand, z), temb)
    exact = x + sigma[:, None, None, None] * apply(net.last, F.silu(up))[:, :, None, None]
    torch.testing.assert_close(restored, exact)


def test_arguments_out_of_range_are_refused():
    for message, make in {
        "zero_init: true needs spectral_norm: bounded, not plain": lambda: RecoveryResNet(zero_init=True),
        "depth: 0": lambda: RecoveryResNet(depth=0),
        r"multiples: \[\]": lambda: PlaneEnergy(multiples=()),
        "width: 5 must be an even": lambda: RecoveryResNet(width=5),
        "width: 2 must be an even": lambda: PlaneInitializer(width=2),
        "classes: -1": lambda: UNet(classes=-1),
        r"attention: \[3\] must name resolutions from 0, the full one, to 2": lambda: UNet(attention=(3,)),
        "heads: 3 must divide the 64 channels": lambda: UNet(heads=3),
        "groups: 0": lambda: UNet(groups=0),
        "depth: 0 must be 1": lambda: PlaneGenerator(depth=0),
    }.items():
        with torch.device("meta"), pytest.raises(UserError, match=message):
            make()
    x, time = torch.randn(1, 3, 16, 12), torch.zeros(1)
    with pytest.raises(UserError, match="multiples: 4 stages need images whose sides are multiples of 8, not 16x12"):
        RecoveryResNet(width=4, depth=1, embedding=4)(x, time)
    with pytest.raises(UserError, match=r"multiples: 4 resolutions need .* multiples of 8, not 16x12"):
        UNet(width=4, depth=1, embedding=4, multiples=(1, 1, 1, 1))(x, time)
