"""The denoisers of Denoising-EBM: parameter counts, the equations written out, their laws."""

import math
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from ebmzoo.energy import gradient
from ebmzoo.errors import UserError
from ebmzoo.networks.denoiser import UNetDenoiser
from ebmzoo.networks.refinenet import LevelNorm, RefineNetDenoiser

UNET = {"size": 8, "latent": 5, "width": 4, "multiples": (1, 2), "depth": 1, "attention": (1,), "embedding": 6}
SMALL = {
    "unet": lambda channels=1, **k: UNetDenoiser(channels, **UNET | {"groups": 2} | k),
    "refinenet": lambda channels=1, **k: RefineNetDenoiser(channels, **{"width": 4, "levels": 3} | k),
}
SIGMA = torch.tensor([1.0, 0.1, 0.01])  # the three levels


def count(module):
    return sum(p.numel() for p in module.parameters())


@torch.no_grad()
def awake(module):
    """The module in double precision, with no parameter at a special value."""
    for p in module.parameters():
        p.copy_(torch.randn_like(p) * 0.4)
    return module.double()


def made(name, channels=1, n=3):
    """An awake network, images and their noise levels; all in double precision."""
    torch.manual_seed(0)
    return awake(SMALL[name](channels)), torch.randn(n, channels, 8, 8).double(), SIGMA[:n].double()


@pytest.mark.parametrize(
    ("network", "settings", "expected"),
    [
        (UNetDenoiser, {}, 11_591_043),
        (UNetDenoiser, {"width": 96, "embedding": 384}, 25_653_251),
        (UNetDenoiser, {"width": 128, "embedding": 512}, 45_226_627),
        (UNetDenoiser, {"size": 64, "multiples": (1, 2, 2, 2, 4), "attention": (2, 3)}, 24_194_435),
        (RefineNetDenoiser, {}, 35_237_891),  # as of NCSN's own module, and so is the next
        (RefineNetDenoiser, {"levels": 10}, 30_117_635),
    ],
)
def test_parameters(network, settings, expected):
    with torch.device("meta"):
        assert count(network(**settings)) == expected


@pytest.mark.parametrize("name", SMALL)
def test_a_denoiser_begins_as_the_identity_and_can_leave_it(name):
    torch.manual_seed(0)
    net, x = SMALL[name](), torch.randn(3, 1, 8, 8)
    assert torch.equal(net(x, SIGMA), x)
    assert torch.equal(net(x, 7 * SIGMA), x)
    net(x, SIGMA).square().sum().backward()
    last = net.unet.up.last if name == "unet" else net.last
    assert last.weight.grad.abs().min() > 0


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns(name):
    net, x, sigma = made(name)
    (net(x, sigma) - x).square().sum().backward()
    still = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-12]
    assert not still


@pytest.mark.parametrize("name", SMALL)
def test_images_of_a_batch_are_independent(name):
    net, x, sigma = made(name)
    together = net(x, sigma)
    assert together.shape == x.shape
    torch.testing.assert_close(torch.cat([net(x[i : i + 1], sigma[i : i + 1]) for i in range(3)]), together)


@pytest.mark.parametrize("name", SMALL)
def test_the_network_depends_on_the_noise_level(name):
    """Not only through the factor σ, or σ², in front of it."""
    net, x, sigma = made(name)
    power = {"unet": 1, "refinenet": 2}[name]
    x = x[:1].expand(3, -1, -1, -1)
    a, b, c = (net(x, sigma).detach() - x) / sigma.reshape(3, 1, 1, 1) ** power
    assert min(float((u - v).abs().max()) for u, v in ((a, b), (b, c), (c, a))) > 1e-3


@pytest.mark.parametrize("name", SMALL)
def test_the_gradient_of_the_image(name):
    """That of the energy |x − r(x, σ)|²/2σ², as chains take it, with the network as in training."""
    net, x, sigma = made(name, n=1)
    assert torch.equal(net.train()(x, sigma), net(x, sigma))  # nothing random in it

    def energy(x):
        return (x - net(x, sigma)).square().flatten(1).sum(1) / (2 * sigma.square())

    direction, h = torch.randn_like(x), 1e-5
    with torch.no_grad():
        slope = float((energy(x + h * direction) - energy(x - h * direction)) / (2 * h))
    assert float((gradient(energy, x) * direction).sum()) == pytest.approx(slope, rel=1e-6)
    assert abs(slope) > 1e-3


@pytest.mark.parametrize("name", SMALL)
def test_the_memory_format_changes_nothing(name):
    net, x, sigma = made(name, channels=2)
    want, last = net(x, sigma), x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(net(last, sigma), want)
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(last, sigma), want)
    torch.testing.assert_close(net(x, sigma), want)


@pytest.mark.parametrize("name", SMALL)
def test_autocast_keeps_the_output_in_float32(name):
    net, x, sigma = made(name)
    net, x, sigma = net.float(), x.float(), SIGMA
    full, inside = net(x, sigma).detach(), []
    first = net.unet.down.first if name == "unet" else net.first
    first.register_forward_hook(lambda *a: inside.append(a[2].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = net(x, sigma)
        assert name != "unet" or net.encode(x, sigma).dtype == torch.float32
        half = net(x.bfloat16(), sigma)
    assert set(inside) == {torch.bfloat16}
    assert {y.dtype for y in (low, half, full)} == {torch.float32}
    assert not torch.equal(low, full)
    torch.testing.assert_close(low, full, rtol=0.05, atol=0.05 * float(full.abs().max()))


@pytest.mark.parametrize("size", [8, 32, 64])
def test_shapes(size):
    x, sigma = torch.randn(2, 3, size, size), SIGMA[:2]
    multiples = {8: (1, 2), 32: (1, 2, 2, 2), 64: (1, 2, 2, 2, 4)}[size]
    net = UNetDenoiser(size=size, width=4, multiples=multiples, depth=1, attention=(1,), embedding=8, latent=6)
    assert net.features == (4 * multiples[-1], 4, 4)
    assert net(x, sigma).shape == x.shape
    assert net.encode(x, sigma).shape == (2, net.latent) == (2, 6)
    net = RefineNetDenoiser(width=4, levels=2)
    assert net(x, sigma).shape == x.shape
    assert net(x[..., :6], sigma).shape == (2, 3, size, 6)


# ── the U-Net ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_unet_denoiser_is_the_equation():
    net, x, sigma = made("unet")
    temb = net.unet.embed(torch.tensor([25 * math.log(s) for s in sigma.tolist()]))
    h, skips = net.unet.encode(x, temb)
    z = h.reshape(3, -1) @ net.squeeze.weight.T + net.squeeze.bias
    z = (z - z.mean(1, keepdim=True)) / (z.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(net.encode(x, sigma), z, rtol=1e-6, atol=1e-6)  # the sinusoids are float32
    up = (z @ net.expand.weight.T + net.expand.bias).reshape(h.shape)
    want = x + sigma.reshape(3, 1, 1, 1) * net.unet.decode(up, skips, temb)
    torch.testing.assert_close(net(x, sigma), want, rtol=1e-6, atol=1e-6)
    # What goes up is not what came down.
    assert (net.unet.decode(up, skips, temb) - net.unet.decode(h, skips, temb)).abs().max() > 1e-3


def test_both_are_the_image_and_the_latent():
    net, x, sigma = made("unet")
    y, z = net.both(x, sigma)
    assert torch.equal(y, net(x, sigma))
    assert torch.equal(z, net.encode(x, sigma))


def test_the_latent_is_what_goes_up_and_lies_on_the_sphere():
    net, x, sigma = made("unet")
    seen = []
    net.expand.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    y, z = net(x, sigma), net.encode(x, sigma)
    assert len(seen) == 1
    assert torch.equal(seen[0], z)
    torch.testing.assert_close(z.square().sum(1), torch.full((3,), 5.0).double(), rtol=1e-3, atol=0)
    torch.testing.assert_close(z.sum(1), torch.zeros(3).double())
    # Without it the images are other ones.
    net.expand.register_forward_hook(lambda _, args, out: torch.zeros_like(out))
    assert (net(x, sigma) - y).abs().flatten(1).amax(1).min() > 1e-4


# ── the RefineNet ───────────────────────────────────────────────────────────────────────────────────────────────────


def normed(norm, x, i):
    """NCSN, A.1, with the deviations of its code: the images' is biased, the channels' is not."""
    gamma, alpha, beta = (norm.table.weight[i].reshape(len(x), 3, -1, 1, 1)[:, k] for k in range(3))
    mu = x.mean((2, 3), keepdim=True)
    h = (x - mu) / (x.var((2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
    spread = (mu.var(1, keepdim=True, correction=1) + 1e-5).sqrt()
    return gamma * (h + alpha * (mu - mu.mean(1, keepdim=True)) / spread) + beta


def wide(layer, x, dilation=1):
    return F.conv2d(x, layer.weight, layer.bias, padding=dilation, dilation=dilation)


def mean_pool(x):
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def inner(block, x, i, dilation=1):
    h = wide(block.conv1, F.elu(normed(block.norm1, x, i)), dilation)
    return wide(block.conv2, F.elu(normed(block.norm2, h, i)), dilation)


def unit_chain(sequence, x, i):
    for unit in sequence.layers:
        assert unit.conv1.bias is unit.conv2.bias is None
        x = x + inner(unit, x, i)
    return x


def refined(block, xs, i):
    hs = [unit_chain(adapt, x, i) for adapt, x in zip(block.adapt, xs, strict=True)]
    h = hs[0]
    if len(xs) == 2:
        a, b = (wide(layer, normed(n, h, i)) for layer, n, h in zip(block.convs, block.norms, hs, strict=True))
        h = a + (b if b.shape == a.shape else bilinear(b))
    total = path = F.elu(h)
    for norm, layer in zip(block.chained.norms, block.chained.convs, strict=True):
        padded = F.pad(normed(norm, path, i), (2, 2, 2, 2))
        path = wide(layer, padded.unfold(2, 5, 1).unfold(3, 5, 1).mean((4, 5)))
        total = total + path
    return unit_chain(block.units, total, i)


def bilinear(x):
    """Doubles the size by linear interpolation between the corners, which do not change."""
    n = x.shape[-1]
    at = torch.arange(2 * n).double() * (n - 1) / (2 * n - 1)
    weights = (1 - (at[:, None] - torch.arange(n)).abs()).clamp(min=0)
    return weights @ x @ weights.T


def test_refinenet_is_the_equation():
    net, x, sigma = made("refinenet")
    i = torch.tensor([0, 1, 2])
    h, outputs = wide(net.first, x), []
    for number, dilation in enumerate((1, 1, 2, 4)):
        enter, second = net.stages[number].layers
        if number == 0:
            h = h + inner(enter, h, i)
        elif number == 1:
            h = mean_pool(inner(enter, h, i)) + mean_pool(F.conv2d(h, enter.shortcut.weight, enter.shortcut.bias))
        else:
            h = inner(enter, h, i, dilation) + wide(enter.shortcut, h, dilation)
        h = h + inner(second, h, i, dilation)
        outputs.append(h)
    assert [tuple(o.shape[1:]) for o in outputs] == [(4, 8, 8), (8, 4, 4), (8, 4, 4), (8, 4, 4)]
    h = refined(net.refines[0], outputs[3:], i)
    for number in (1, 2, 3):
        h = refined(net.refines[number], [outputs[3 - number], h], i)
    assert [len(refine.units.layers) for refine in net.refines] == [1, 1, 1, 3]
    score = wide(net.last, F.elu(normed(net.norm, h, i)))
    torch.testing.assert_close(net.score(x, i), score)
    torch.testing.assert_close(net(x, sigma), x + sigma.reshape(3, 1, 1, 1) ** 2 * score)


def test_level_norm_as_it_begins():
    torch.manual_seed(0)
    table = LevelNorm(50, 40).table.weight.detach()
    scale, mix, shift = table.reshape(40, 3, 50).unbind(1)
    assert not shift.any()
    for part in (scale, mix):
        assert part.mean() == pytest.approx(1, abs=0.004)  # of 2,000 numbers
        assert part.std() == pytest.approx(0.02, rel=0.15)
    assert not torch.equal(scale, mix)


def test_the_level_is_the_nearest_by_logarithm():
    net = RefineNetDenoiser(1, width=2, levels=5, sigma_max=16.0, sigma_min=1.0)
    torch.testing.assert_close(net.log_sigmas.exp(), torch.tensor([16.0, 8.0, 4.0, 2.0, 1.0]))
    assert net.level(torch.tensor([16.0, 8, 4, 2, 1])).tolist() == [0, 1, 2, 3, 4]
    assert net.level(torch.tensor([1e6, 11.4, 11.2, 1.42, 1.40, 1e-6])).tolist() == [0, 0, 1, 3, 4, 4]
    assert "log_sigmas" not in net.state_dict()
    # Of the same level, the score is the same function.
    net, x, _ = made("refinenet", n=1)
    a, b = torch.tensor([0.9]).double(), torch.tensor([1.5]).double()
    torch.testing.assert_close((net(x, a) - x) / a**2, (net(x, b) - x) / b**2)


def test_a_copy_is_the_same_network():
    for name in SMALL:
        net, x, sigma = made(name)
        other = awake(deepcopy(net))  # its tables are buffers that no checkpoint holds
        assert not torch.equal(other(x, sigma), net(x, sigma))
        other.load_state_dict(net.state_dict())
        assert torch.equal(other(x, sigma), net(x, sigma))


def test_arguments_out_of_range_are_refused():
    for message, make in {
        "size: 28 must be a multiple of 8, for the 4 resolutions": lambda: UNetDenoiser(size=28),
        "size: 0 must": lambda: UNetDenoiser(size=0),
        "latent: 1 must be 2 or more": lambda: UNetDenoiser(latent=1),
        "heads: 3 must divide": lambda: UNetDenoiser(heads=3),
        "width: 1 must be 2 or more": lambda: RefineNetDenoiser(width=1),
        "levels: 1 must": lambda: RefineNetDenoiser(levels=1),
        "sigma_min: 2.0 must be above 0 and below sigma_max: 1.0": lambda: RefineNetDenoiser(sigma_min=2.0),
        "sigma_min: 0 must": lambda: RefineNetDenoiser(sigma_min=0),
    }.items():
        with torch.device("meta"), pytest.raises(UserError, match=message):
            make()
    sigma = torch.ones(1)
    with pytest.raises(UserError, match="size: 8 is not the side of the images, which are 16x8"):
        SMALL["unet"]()(torch.zeros(1, 1, 16, 8), sigma)
    for sides in ((7, 8), (8, 2)):
        with pytest.raises(UserError, match=f"even and 4 or more, not {sides[0]}x{sides[1]}"):
            SMALL["refinenet"]()(torch.zeros(1, 1, *sides), sigma)
