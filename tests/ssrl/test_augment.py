"""The batched augmentation equals torchvision's, image by image, and draws from its distributions."""

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from ebmzoo.errors import UserError
from ebmzoo.ssrl import Augment
from ebmzoo.ssrl.augment import crop_boxes, resized_crop
from ebmzoo.ssrl.colours import blend, colour_jitter, grayscale, turn_hue
from ebmzoo.ssrl.crops import cubic

SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)
ADJUST = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def boxes_in(n, height, width):
    """Boxes of every shape, single pixels and whole images among them."""
    h, w = torch.randint(1, height + 1, (n,)), torch.randint(1, width + 1, (n,))
    h[:2], w[:2] = torch.tensor([1, height]), torch.tensor([1, width])
    top = (torch.rand(n) * (height - h + 1)).floor()
    left = (torch.rand(n) * (width - w + 1)).floor()
    return torch.stack([top, left, h.float(), w.float()], 1)


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 32, 32), (1, 8, 8), (3, 17, 23), (2, 64, 64)])
def test_crop_equals_torchvision(channels, height, width):
    n = 100
    x, boxes = torch.rand(n, channels, height, width), boxes_in(n, height, width)
    expected = [
        tv.resized_crop(image, *box.int().tolist(), [height, width], InterpolationMode.BICUBIC, antialias=True)
        for image, box in zip(x, boxes, strict=True)
    ]
    torch.testing.assert_close(resized_crop(x, boxes), torch.stack(expected), rtol=0, atol=1e-5)


def test_whole_image_is_kept():
    x = torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(resized_crop(x, torch.tensor([[0.0, 0, 16, 16]]).expand(4, 4)), x, rtol=0, atol=1e-6)


def test_kernel_interpolates():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    for a in (-0.5, -0.75):
        assert cubic(torch.arange(-3, 4), a).tolist() == [0, 0, 0, 1, 0, 0, 0]
        torch.testing.assert_close(sum(cubic(t + i, a) for i in range(-2, 2)), torch.ones_like(t))
    torch.testing.assert_close(sum(cubic(t + i, -0.5) * -i for i in range(-2, 2)), t)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("kind", "adjust"), list(enumerate(ADJUST[:3])))
def test_blends_equal_torchvision(kind, adjust, channels):
    x, factor = torch.rand(20, channels, 9, 9), torch.rand(20) * 2
    expected = torch.stack([adjust(image, f.item()) for image, f in zip(x, factor, strict=True)])
    torch.testing.assert_close(blend(x, torch.full((20,), kind), factor), expected, rtol=0, atol=1e-5)


def test_hue_equals_torchvision():
    x, turn = torch.rand(50, 3, 9, 9), torch.rand(50) - 0.5
    x[:5] = x[:5, :1]  # grey
    x[5:10] = (x[5:10] > 0.5).float()  # primaries, their opposites, black and white
    x[10:15, 0] = x[10:15, 1]  # two channels equal
    expected = torch.stack([tv.adjust_hue(image, t.item()) for image, t in zip(x, turn, strict=True)])
    torch.testing.assert_close(turn_hue(x, turn), expected, rtol=0, atol=1e-5)


def test_grayscale_equals_torchvision():
    x = torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(grayscale(x), tv.rgb_to_grayscale(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_equals_torchvision_in_every_order(channels):
    orders = torch.cartesian_prod(*[torch.arange(4)] * 4)
    orders = orders[[len(set(o.tolist())) == 4 for o in orders]].repeat(4, 1)
    n = len(orders)
    assert n == 24 * 4
    x, factors = torch.rand(n, channels, 9, 9), torch.rand(n, 4) + 0.5
    factors[:, 3] -= 1
    expected = []
    for image, factor, order in zip(x, factors.tolist(), orders.tolist(), strict=True):
        for op in order:
            if channels == 3 or op < 2:
                image = ADJUST[op](image, factor[op])
        expected.append(image)
    torch.testing.assert_close(colour_jitter(x, factors, orders), torch.stack(expected), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [(32, 32, SCALE, RATIO), (8, 8, (0.08, 1.0), RATIO), (20, 32, (0.5, 1.0), RATIO), (64, 8, (0.9, 1.0), (0.9, 1.1))],
)
def test_boxes_are_distributed_as_torchvisions(height, width, scale, ratio):
    n = 4000
    boxes = crop_boxes(n, height, width, scale, ratio)
    top, left, h, w = boxes.unbind(1)
    assert torch.equal(boxes, boxes.round())
    assert (boxes >= 0).all()
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    image, crop = torch.empty(1, height, width), RandomResizedCrop(8, scale, ratio)
    drawn = [crop.make_params([image]) for _ in range(n)]
    theirs = torch.tensor([[d["top"], d["left"], d["height"], d["width"]] for d in drawn]).float()
    quantiles = torch.linspace(0.05, 0.95, 10)
    for mine, reference, side in zip(boxes.T, theirs.T, (height, width) * 2, strict=True):
        # The mean of 4000 draws has a standard error of at most side/√(12·4000); five of them, for a difference of two.
        assert (mine.mean() - reference.mean()).abs() <= 5 * (2 / 12 / n) ** 0.5 * side
        steps = (torch.quantile(mine, quantiles) - torch.quantile(reference, quantiles)).abs()
        assert steps.max() <= max(1.0, 0.05 * side)


def test_colour_factors_are_uniform_in_their_ranges():
    augment = Augment(jitter=(0.4, 1.5, 0.0, 0.1))
    factors = augment.colour_factors(5000, torch.device("cpu"))
    for column, (low, high) in zip(factors.T, [(0.6, 1.4), (0.0, 2.5), (1.0, 1.0), (-0.1, 0.1)], strict=True):
        assert column.min() >= low - 1e-6
        assert column.max() <= high + 1e-6
        expected = low + (high - low) * torch.linspace(0.1, 0.9, 9)
        got = torch.quantile(column, torch.linspace(0.1, 0.9, 9))
        torch.testing.assert_close(got, expected, rtol=0, atol=0.03 * (high - low) + 1e-6)


NOTHING = {
    "crop_scale": (1.0, 1.0),
    "crop_ratio": (1.0, 1.0),
    "jitter_prob": 0.0,
    "grayscale_prob": 0.0,
    "flip_prob": 0.0,
}


def images(n=8, channels=3, size=16):
    return torch.rand(n, channels, size, size) * 2 - 1


@pytest.mark.parametrize("channels", [1, 3])
def test_without_any_change_images_stay_the_same(channels):
    x = images(channels=channels)
    torch.testing.assert_close(Augment(**NOTHING)(x), x, rtol=0, atol=1e-5)
    torch.testing.assert_close(Augment(**NOTHING)(3 * x), (3 * x).clamp(-1, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("prob", "value", "change"),
    [
        ("flip_prob", 0.3, lambda x: x.flip(3)),
        ("grayscale_prob", 0.6, lambda x: (0.2989 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]).expand_as(x)),
    ],
)
def test_each_image_is_changed_with_its_probability(prob, value, change):
    n = 3000
    x = images(n, size=4)
    y = Augment(**{**NOTHING, prob: value})(x)
    changed = (y - change(x)).abs().amax((1, 2, 3)) < 1e-3
    kept = (y - x).abs().amax((1, 2, 3)) < 1e-4
    assert (changed ^ kept).all()
    assert abs(changed.float().mean() - value) < 5 * (value * (1 - value) / n) ** 0.5


def test_images_are_jittered_with_their_probability():
    n = 3000
    x = images(n, size=4) / 4  # brightness never clips, so the factor can be read off
    y = Augment(**{**NOTHING, "jitter_prob": 0.8, "jitter": (0.4, 0.0, 0.0, 0.0)})(x)
    factor = ((y + 1) / (x + 1)).flatten(1)
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor), rtol=0, atol=1e-4)
    jittered = (factor[:, 0] - 1).abs() > 1e-4
    assert abs(jittered.float().mean() - 0.8) < 5 * (0.16 / n) ** 0.5
    assert len(factor[jittered, 0].unique()) > 0.99 * jittered.sum()
    assert factor.min() >= 0.6 - 1e-4
    assert factor.max() <= 1.4 + 1e-4


@pytest.mark.parametrize("channels", [1, 3])
def test_defaults_keep_shape_and_range_and_differ_between_images(channels):
    x = images(1, channels).expand(64, -1, -1, -1)
    y = Augment()(x)
    assert y.shape == x.shape
    assert y.abs().max() <= 1
    assert len(y.flatten(1).unique(dim=0)) == 64


def test_generator_decides_alone():
    x, augment = images(), Augment()
    first = augment(x, torch.Generator().manual_seed(1))
    state = torch.get_rng_state()
    assert torch.equal(augment(x, torch.Generator().manual_seed(1)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(augment(x, torch.Generator().manual_seed(2)), first)


def test_float32_under_autocast():
    x, augment = images(), Augment()
    expected = augment(x, torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment(x, torch.Generator().manual_seed(1)), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("channels", [1, 3])
def test_no_host_sync(channels):
    x, augment = images(64, channels).cuda(), Augment()
    augment(x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        y = augment(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert y.isfinite().all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crop_scale", (0.0, 1.0)),
        ("crop_scale", (0.5, 0.2)),
        ("crop_ratio", (0.0, 1.0)),
        ("jitter", (0.4, 0.4, 0.4, 0.6)),
        ("jitter", (-0.1, 0.4, 0.4, 0.1)),
        ("jitter_prob", 1.5),
        ("grayscale_prob", -0.1),
        ("flip_prob", 2.0),
    ],
)
def test_unfit_arguments_are_named(name, value):
    with pytest.raises(UserError, match=f"^{name}: "):
        Augment(**{name: value})


def test_two_channels_are_refused():
    with pytest.raises(UserError, match="2 channels"):
        Augment()(images(channels=2))
