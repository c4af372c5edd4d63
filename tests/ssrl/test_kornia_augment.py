"""The mode `kornia-0.6` of the augmentation: kornia 0.6.3's crop, colours and order, and its statistics."""

import colorsys

import pytest
import torch
import torch.nn.functional as F

from ebmzoo.errors import UserError
from ebmzoo.ssrl import Augment
from ebmzoo.ssrl.kornia_augment import change, colour_jitter, crop_boxes, resized_crop
from ebmzoo.training.config_files import config_path, read_config

NOTHING = {
    "crop_scale": (1.0, 1.0),
    "crop_ratio": (1.0, 1.0),
    "jitter_prob": 0.0,
    "grayscale_prob": 0.0,
    "flip_prob": 0.0,
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def kornia(**changes):
    return Augment(**NOTHING | {"mode": "kornia-0.6"} | changes)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 8), (17, 23)])
def test_the_crop_is_torch_s_bicubic_one_with_aligned_corners(height, width):
    x, n = torch.rand(60, 3, height, width), 60
    h, w = torch.randint(1, height + 1, (n,)), torch.randint(1, width + 1, (n,))
    top, left = (torch.rand(n) * (height - h + 1)).long(), (torch.rand(n) * (width - w + 1)).long()
    boxes = torch.stack([top, left, h, w], 1)
    expected = [
        F.interpolate(image[None, :, t : t + a, s : s + b], (height, width), mode="bicubic", align_corners=True)[0]
        for image, (t, s, a, b) in zip(x, boxes.tolist(), strict=True)
    ]
    torch.testing.assert_close(resized_crop(x, boxes.float()), torch.stack(expected), rtol=0, atol=1e-5)


def test_brightness_is_added_and_contrast_scales_from_black():
    x, factor = torch.rand(20, 3, 5, 5), torch.rand(20) + 0.5
    f = factor.view(-1, 1, 1, 1)
    torch.testing.assert_close(change(x, 0, factor), (x + f - 1).clamp(0, 1))
    torch.testing.assert_close(change(x, 1, factor), (x * f).clamp(0, 1))


@pytest.mark.parametrize("kind", [2, 3])
def test_saturation_and_hue_are_changed_in_hsv(kind):
    x, factor = (
        torch.rand(6, 3, 4, 4, dtype=torch.float64),
        torch.rand(6, dtype=torch.float64) * (2 if kind == 2 else 0.2),
    )
    x[0] = x[0, :1]  # grey
    want = torch.empty_like(x)
    for i, (image, f) in enumerate(zip(x, factor.tolist(), strict=True)):
        for row in range(4):
            for column in range(4):
                h, s, v = colorsys.rgb_to_hsv(*image[:, row, column].tolist())
                h, s = (h, min(1.0, s * f)) if kind == 2 else ((h + f) % 1, s)
                want[i, :, row, column] = torch.tensor(colorsys.hsv_to_rgb(h, s, v), dtype=torch.float64)
    torch.testing.assert_close(change(x, kind, factor), want, rtol=0, atol=1e-6)
    grey = x[:, :1]
    assert torch.equal(change(grey, kind, factor), grey)


def test_changes_are_made_in_the_order_given():
    x, factors = torch.rand(5, 3, 4, 4), torch.rand(5, 4) * 0.2 + 0.9
    want = change(change(change(change(x, 3, factors[:, 3]), 1, factors[:, 1]), 0, factors[:, 0]), 2, factors[:, 2])
    torch.testing.assert_close(colour_jitter(x, factors, (3, 1, 0, 2)), want)


@pytest.mark.parametrize(
    ("height", "width", "ratio", "whole"),
    [(32, 32, (3 / 4, 4 / 3), (24, 32)), (32, 32, (1.0, 1.0), (32, 32)), (16, 64, (0.5, 2.0), (16, 32))],
)
def test_a_box_that_no_try_fits_is_the_largest_of_the_least_aspect(height, width, ratio, whole):
    h, w = crop_boxes(400, height, width, (1.0, 1.0), ratio)[:, 2:].unbind(1)
    alone = (h == whole[0]) & (w == whole[1])
    assert alone.any()
    assert (((h < height) & (w < width)) | alone).all()


def test_boxes_are_smaller_than_the_image_and_lie_anywhere_in_it():
    boxes = crop_boxes(4000, 32, 32, (0.08, 1.0), (3 / 4, 4 / 3))
    top, left, h, w = boxes.unbind(1)
    assert torch.equal(boxes, boxes.round())
    assert bool(((top >= 0) & (left >= 0) & (top + h <= 32) & (left + w <= 32) & (h >= 1) & (w >= 1)).all())
    assert float(h.max()) < 32
    assert float(h.mean()) == pytest.approx(21.1, abs=0.5)  # kornia 0.6.3: 21.15 ± 5.94
    assert float(h.std()) == pytest.approx(5.93, abs=0.3)
    room = 32 - h
    assert float((top / room.clamp_min(1))[room > 0].mean()) == pytest.approx(0.5, abs=0.02)


def test_brightness_moves_the_mean_twice_as_far_as_torchvision_s():
    """On images of mean 1/2: sd of the shift .4/√3 against a factor's .5 · .4/√3."""
    x = torch.zeros(4000, 3, 4, 4)
    one = {"jitter_prob": 1.0, "jitter": (0.4, 0.0, 0.0, 0.0)}
    for mode, sd in (("kornia-0.6", 0.4 / 3**0.5), ("torchvision", 0.2 / 3**0.5)):
        y = Augment(**NOTHING | one, mode=mode)(x)
        assert float((y.mean((1, 2, 3)) / 2).std()) == pytest.approx(sd, rel=0.05), mode


def test_a_batch_has_one_order():
    """An image of .3 after brightness + .4 and contrast × .5 is .35 or .55, the same in the whole batch."""
    augment = kornia(jitter_prob=1.0)
    augment.colour_factors = lambda n, device, generator: torch.tensor([1.4, 0.5, 1.0, 0.0]).expand(n, 4)
    seen = set()
    for seed in range(20):
        y = (augment(torch.full((50, 3, 2, 2), -0.4), torch.Generator().manual_seed(seed)) + 1) / 2
        assert float(y.max() - y.min()) < 1e-6
        seen.add(round(float(y[0, 0, 0, 0]), 4))
    assert seen == {0.35, 0.55}


def test_only_a_jittered_image_is_clipped():
    x = torch.tensor([-3.0, 3.0]).repeat(50, 3, 4, 2)
    torch.testing.assert_close(kornia()(x), x)
    assert float(kornia(jitter_prob=1.0)(x).abs().max()) <= 1
    some = kornia(jitter_prob=0.5)(x).abs().amax((1, 2, 3))
    assert bool(((some <= 1) | (some == 3)).all())
    assert 10 < int((some == 3).sum()) < 40


@pytest.mark.parametrize("channels", [1, 3])
def test_a_generator_decides_alone(channels):
    x, augment = torch.rand(9, channels, 8, 8), Augment(mode="kornia-0.6")
    first, state = augment(x, torch.Generator().manual_seed(1)), torch.get_rng_state()
    assert torch.equal(augment(x, torch.Generator().manual_seed(1)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == x.shape
    assert not torch.equal(augment(x, torch.Generator().manual_seed(2)), first)


def test_unfit_arguments_are_named():
    with pytest.raises(UserError, match=r"^mode: 'kornia' must be 'torchvision' or 'kornia-0\.6'"):
        Augment(mode="kornia")
    with pytest.raises(UserError, match=r"^jitter: .* brightness"):
        Augment(mode="kornia-0.6", jitter=(1.5, 0.4, 0.4, 0.1))


@pytest.mark.parametrize("name", ["cifar", "large_cifar", "imagenet32", "celeba64", "small_network_cifar"])
def test_clel_s_paper_size_configs_augment_as_its_code_does(name):
    model = read_config(config_path(f"clel_{name}"))["model"]["init_args"]
    wanted = {"crop_scale": [0.08, 1.0], "jitter": [0.4, 0.4, 0.4, 0.1], "jitter_prob": 0.8, "grayscale_prob": 0.2}
    wanted |= {"flip_prob": 0.5, "mode": "kornia-0.6"}
    assert model["augment"]["init_args"] == wanted
    assert model["encoder_objective"]["init_args"]["augment"]["init_args"] == wanted
