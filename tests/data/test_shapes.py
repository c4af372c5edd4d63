"""Drawn shapes: pixels from attributes, attributes from pixels, and combinations that training never sees."""

import math
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d

from ebmzoo.data import Attributes, CelebA, Digits, ImageSet, Shapes
from ebmzoo.data.batches import InMemory
from ebmzoo.data.shapes import (
    BRIGHTNESS,
    CENTRES,
    COMBINATIONS,
    GREYS,
    NAMES,
    RADII,
    SATURATION,
    SHAPES,
    VALUES,
    render,
)
from ebmzoo.errors import UserError

HELD_OUT = [{"shape": "star", "colour": "red"}, {"shape": "cross", "size": "small", "position": "top_left"}]
BRIGHT = round(255 * BRIGHTNESS)
DIM = round(255 * BRIGHTNESS * (1 - SATURATION))


def chosen(**wanted):
    """The rows of all combinations that have the wanted values, in a fixed order."""
    return COMBINATIONS.table[COMBINATIONS.where(wanted)]


def coverage(images, table):
    """How far each pixel is from the ground to its shape's colour, (N, H, W), by the strongest channel."""
    x = images.double()
    ground, size = x[:, :, 0, 0], images.shape[-1]
    places = torch.tensor(list(CENTRES.values()))[table[:, 3]]
    column, row = (places * size).long().unbind(1)
    colour = x[torch.arange(len(x)), :, row, column]
    channel = (colour - ground).abs().argmax(1)
    pick = torch.arange(len(x)), channel
    return (x[pick] - ground[pick][:, None, None]) / (colour - ground)[pick][:, None, None]


# The picture of an attribute.


def test_an_attribute_is_the_colour_grey_and_place_that_its_name_says():
    channels = {"red": "R", "yellow": "RG", "green": "G", "cyan": "GB", "blue": "B", "magenta": "RB"}
    size = 100
    for name, on in channels.items():
        table = chosen(colour=name)
        images = render(table, size).long()
        for image, row in zip(images, table.tolist(), strict=True):
            x, y = (int(c * size) for c in CENTRES[VALUES[3][row[3]]])
            assert x // 50 == VALUES[3][row[3]].endswith("right")
            assert y // 50 == VALUES[3][row[3]].startswith("bottom")
            for value, channel in zip(image[:, y, x].tolist(), "RGB", strict=True):
                # Yellow and blue lie five degrees beside a corner of the colour wheel.
                assert abs(value - (BRIGHT if channel in on else DIM)) <= 255 * 0.95 * 0.85 * 5 / 60 + 1, name
            corners = image[:, [0, 0, -1, -1], [0, -1, 0, -1]]
            assert (corners == round(255 * GREYS[VALUES[4][row[4]]])).all()


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", math.pi * 0.95**2),
        ("square", (2 * 0.85) ** 2),
        ("triangle", 3 * math.sqrt(3) / 4 * 1.2**2),
        ("star", 5 * 1.2 * 0.5 * math.sin(math.pi / 5)),
        ("cross", 4 * 2 * 1.05 * 0.35 - 4 * 0.35**2),
    ],
)
def test_the_covered_area_is_that_of_the_outline(shape, area):
    for size, radius in RADII.items():
        table = chosen(shape=shape, size=size, colour="red", background="dark")
        found = coverage(render(table, 256), table).mean((1, 2))
        assert torch.allclose(found, torch.full_like(found, area * radius**2), rtol=0.01), size


@pytest.mark.parametrize("shape", SHAPES)
def test_the_distance_is_one_of_a_flat_gradient_and_zero_on_the_outline(shape):
    generator = torch.Generator().manual_seed(0)
    p = (torch.rand(4000, 2, generator=generator, dtype=torch.float64) * 4 - 2).requires_grad_()
    d = SHAPES[shape](p)
    (slope,) = torch.autograd.grad(d.sum(), p)
    assert torch.allclose(slope.norm(dim=1), torch.ones(4000, dtype=torch.float64), atol=1e-6)
    assert SHAPES[shape](p.new_zeros(2) + 1e-9) < -0.3
    assert torch.allclose(SHAPES[shape](p.detach() * p.new_tensor([-1, 1])), d.detach(), atol=1e-9)
    # One step down the distance from outside lands on the outline, unless another side is as near.
    outside = d.detach() > 0
    landed = SHAPES[shape]((p - d[:, None] * slope).detach()[outside])
    assert landed.abs().max() < 1e-6


def test_mirrored_pictures_are_those_of_the_mirrored_place():
    table = COMBINATIONS.table
    images, mirrored = render(table, 32).int(), table.clone()
    mirrored[:, 3] = torch.tensor([1, 0, 3, 2])[table[:, 3]]
    assert VALUES[3] == ("top_left", "top_right", "bottom_left", "bottom_right")
    assert (images.flip(-1) - render(mirrored, 32).int()).abs().max() <= 1
    upright = (table[:, 0] != 2) & (table[:, 0] != 3)
    mirrored[:, 3] = torch.tensor([2, 3, 0, 1])[table[:, 3]]
    assert (images.flip(-2) - render(mirrored, 32).int())[upright].abs().max() <= 1


def test_edges_are_one_soft_pixel_and_nothing_else_is():
    table = chosen(shape="circle", colour="red", background="dark")
    covered = coverage(render(table, 32), table)
    ticks = (torch.arange(32) + 0.5) / 32
    centre = torch.tensor(list(CENTRES.values()))[table[:, 3]][:, :, None]
    away = torch.hypot(ticks - centre[:, :1], (ticks - centre[:, 1:]).mT) * 32
    d = away - 32 * 0.95 * torch.tensor(list(RADII.values()))[table[:, 2]][:, None, None]
    soft = d.abs() < 0.49
    assert ((covered == 0) == (d >= 0.5))[d.abs() > 0.51].all()
    assert ((covered == 1) == (d <= -0.5))[d.abs() > 0.51].all()
    assert ((covered[soft] > 0) & (covered[soft] < 1)).all()
    assert torch.allclose(covered[soft], (0.5 - d[soft]).double(), atol=0.01)
    # As many soft pixels as the outline is long: one pixel wide.
    length = 2 * math.pi * 32 * 0.95 * torch.tensor(list(RADII.values()))[table[:, 2]]
    assert torch.allclose(soft.sum((1, 2)).float(), length, rtol=0.15)
    everything = coverage(render(COMBINATIONS.table, 32), COMBINATIONS.table)
    between = ((everything > 0.02) & (everything < 0.98)).sum((1, 2))
    assert between[COMBINATIONS.table[:, 0] != 1].min() >= 4


def test_a_scene_is_the_same_at_every_size():
    table = COMBINATIONS.table
    small, large = render(table, 32, seed=3).float(), render(table, 64, seed=3).float()
    apart = (avg_pool2d(large, 2) - small).abs() / 255
    assert apart.mean() < 0.002
    # The tip of a star is less than a pixel wide.
    assert apart.max() < 0.4
    assert (avg_pool2d(large, 2) - render(table, 32, seed=4).float()).abs().mean() / 255 > 5 * apart.mean()


def test_the_jitter_is_small_seeded_and_differs_from_image_to_image():
    row = chosen(shape="circle", colour="green", size="large", position="top_left", background="light")
    images = render(row.expand(400, -1), 64, seed=0)
    assert len(images.unique(dim=0)) == 400
    assert torch.equal(images, render(row.expand(400, -1), 64, seed=0))
    assert not torch.equal(images, render(row.expand(400, -1), 64, seed=1))
    # Green is where the red channel is low; the ground is the upper left pixel.
    covered = 1 - (images[:, 0].double() - 36) / (images[:, 0, :1, -1:].double() - 36)
    covered = covered.clamp(0, 1) * (images[:, 0].double() < images[:, 0, :1, -1:].double() - 3)
    ticks = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    mass = covered.sum((1, 2))
    for found in ((covered.sum(1) * ticks).sum(1) / mass, (covered.sum(2) * ticks).sum(1) / mass):
        assert 0.235 < found.min() < 0.25
        assert 0.29 < found.max() < 0.305
    ground = images[:, 0, 0, -1].double() / 255
    assert 0.815 < ground.min() < 0.825
    assert 0.875 < ground.max() < 0.885


# Attributes from pixels.


def outlines(images):
    """The shapes without their colours, (N, H·W) in [0, 1], and their colours, (N, 3), where these are strongest."""
    x = images.double() / 255
    away = (x - x[:, :, :1, :1]).abs().amax(1).flatten(1)
    largest, at = away.max(1)
    return away / largest[:, None], x.flatten(2)[torch.arange(len(x)), :, at]


def test_the_nearest_picture_tells_every_attribute():
    data = Shapes(n_train=1, n_test=480, picture_seed=5)
    truth = data.test_set.attributes.table
    known = chosen(colour="red", background="dark").repeat(80, 1)
    outline, colour = outlines(data.test_set.images)
    told = known[torch.cdist(outline, outlines(render(known, 32, seed=1))[0]).argmin(1)]
    table = chosen(shape="circle", size="large", position="top_left", background="dark")
    told[:, 1] = torch.cdist(colour, outlines(render(table, 32))[1]).argmin(1)
    told[:, 4] = (data.test_set.images[:, 0, 0, 0] > 128).long()
    right = (told == truth).double().mean(0)
    assert right.min() >= 0.99, dict(zip(NAMES, right.tolist(), strict=True))


def test_backgrounds_differ_from_every_colour():
    images = render(COMBINATIONS.table, 32, seed=0).float() / 255
    table = COMBINATIONS.table
    places = (torch.tensor(list(CENTRES.values()))[table[:, 3]] * 32).long()
    inside = images[torch.arange(len(table)), :, places[:, 1], places[:, 0]]
    assert (inside - images[:, :, 0, 0]).abs().amax(1).min() > 0.5


# The sets.


def test_the_same_arguments_give_the_same_bits_and_other_seeds_do_not():
    first, again = Shapes(n_train=600, n_test=100), Shapes(n_train=600, n_test=100, seed=9)
    other = Shapes(n_train=600, n_test=100, picture_seed=1)
    for a, b, c in zip(first.load(), again.load(), other.load(), strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.attributes.table, b.attributes.table)
        assert not torch.equal(a.images, c.images)
        assert not torch.equal(a.attributes.table, c.attributes.table)
    train, test = Shapes(n_train=100, n_test=100).load()
    assert torch.equal(test.images, first.test_set.images)
    assert len(torch.cat([train.images, test.images]).unique(dim=0)) == 200
    seeds = [Shapes(n_train=1, n_test=1, picture_seed=i).load() for i in range(20)]
    assert len(torch.cat([part.images for parts in seeds for part in parts]).unique(dim=0)) == 40


@pytest.mark.parametrize("n", [480, 1000])
def test_every_combination_is_there_as_often_as_another_or_once_more(n):
    data = Shapes(n_train=n, n_test=n, size=16)
    for part in (data.train_set, data.test_set):
        _, counts = part.attributes.table.unique(dim=0, return_counts=True)
        assert (len(counts), counts.sum()) == (480, n)
        assert counts.max() - counts.min() <= 1
        for a, values in enumerate(VALUES):
            share = part.attributes.table[:, a].bincount(minlength=len(values)) / n * len(values)
            assert 0.9 < share.min() <= share.max() < 1.1


def test_training_never_has_what_is_held_out_and_the_test_set_has():
    data = Shapes(n_train=960, n_test=480, size=16, held_out=HELD_OUT)
    shape, colour, size, position, _ = (data.train_set.attributes.column(name) for name in NAMES)
    assert not ((shape == 3) & (colour == 0)).any()
    assert not ((shape == 4) & (size == 0) & (position == 0)).any()
    assert len(data.train_set.attributes.table.unique(dim=0)) == 480 - 16 - 12
    shape, colour, size, position, _ = (data.test_set.attributes.column(name) for name in NAMES)
    expected = ((shape == 3) & (colour == 0)) | ((shape == 4) & (size == 0) & (position == 0))
    assert torch.equal(data.held_out_mask, expected)
    assert expected.sum() == 16 + 12
    plain = Shapes(n_train=10, n_test=480, size=16)
    assert torch.equal(plain.test_set.images, data.test_set.images)
    assert not plain.held_out_mask.any()


def test_the_label_is_the_chosen_attribute():
    for a, name in enumerate(NAMES):
        data = Shapes(n_train=50, n_test=20, size=16, label=name)
        assert data.classes == VALUES[a]
        assert torch.equal(data.train_set.labels, data.train_set.attributes.table[:, a])
    assert [len(values) for values in VALUES] == [5, 6, 2, 4, 2]


def test_attributes_stay_with_their_images():
    data = Shapes(n_train=480, n_test=480, size=16, val_fraction=0.25, max_train=200, seed=4, label="colour")
    whole = Shapes(n_train=480, n_test=480, size=16).train_set
    where = {image.numpy().tobytes(): i for i, image in enumerate(whole.images)}
    assert not torch.equal(data.train_set.images, whole.images[:200])
    parts = [data.train_set, data.val_set, data.train_set.take([5, 2]), data.train_set.take(slice(3, 9))]
    for part in parts:
        index = [where[image.numpy().tobytes()] for image in part.images]
        assert torch.equal(part.attributes.table, whole.attributes.table[index])
        assert torch.equal(part.labels, part.attributes.column("colour"))
    assert [len(part) for part in parts] == [200, 120, 2, 6]
    held = data.test_set.take(data.test_set.attributes.where({"shape": "star", "colour": "red"}))
    assert len(held) == 16
    assert (held.attributes.table[:, :2] == torch.tensor([3, 0])).all()
    images, labels = InMemory(data.train_set).__getitems__([7, 1])
    assert torch.equal(images, data.train_set.images[[7, 1]])
    assert labels.tolist() == data.train_set.attributes.column("colour")[[7, 1]].tolist()


def test_a_set_without_attributes_stays_without():
    assert Digits().train_set.take([1, 0]).attributes is None


def test_faces_have_every_attribute_whichever_is_the_label(tmp_path, monkeypatch):
    (tmp_path / "celeba" / "img_align_celeba").mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (178, 218), (i, 0, 0)).save(tmp_path / "celeba" / "img_align_celeba" / f"{i}.png")
    table = torch.tensor([[0, 1], [1, 1], [1, 0]], dtype=torch.int32)
    lists = SimpleNamespace(attr_names=["Bald", "Smiling", ""], attr=table, filename=["0.png", "1.png", "2.png"])
    monkeypatch.setattr("ebmzoo.data.faces.datasets.CelebA", lambda *args, **options: lists)
    for a, name in enumerate(("Bald", "Smiling")):
        faces = CelebA(str(tmp_path), size=8, attribute=name).train_set.take([2, 0])
        assert faces.images[:, 0, 0, 0].tolist() == [2, 0]
        assert faces.attributes.names == ("Bald", "Smiling")
        assert faces.attributes.values == (("not Bald", "Bald"), ("not Smiling", "Smiling"))
        assert faces.attributes.table.tolist() == [[1, 0], [0, 1]]
        assert torch.equal(faces.labels, faces.attributes.table[:, a])
        assert faces.classes == (f"not {name}", name)
        assert faces.attributes.where({"Bald": "Bald", "Smiling": "not Smiling"}).tolist() == [True, False]


# What cannot be.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 8}, "size: 8 .* 16 or more"),
        ({"n_train": 0}, "n_train: 0"),
        ({"n_test": 0}, "n_test: 0"),
        ({"picture_seed": -1}, "picture_seed: -1"),
        ({"label": "hue"}, "label: 'hue' .*shape, colour, size, position, background"),
        ({"label": "position", "flip": True}, "flip"),
        ({"held_out": [{"hue": "red"}]}, "held_out: 'hue' is not an attribute; it must be one of shape, colour, size"),
        (
            {"held_out": [{"colour": "pink"}]},
            "held_out: 'pink' is not a value of colour; it must be one of red, yellow",
        ),
        ({"held_out": [{"size": "small"}, {"size": "large"}]}, "held_out: every combination"),
        ({"held_out": [{}]}, "held_out: every combination"),
    ],
)
def test_impossible_arguments_are_named(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        Shapes(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (torch.zeros(3, 4).long(), r"\(3, 4\); it must be int64 of shape \(N, 5\)"),
        (torch.zeros(3, 5), "float32"),
        (torch.tensor([[0, 6, 0, 0, 0]]), "the indices of colour are from 6 to 6; they must be from 0 to 5"),
        (torch.tensor([[-1, 0, 0, 0, 0]]), "the indices of shape are from -1"),
    ],
)
def test_a_table_that_does_not_fit_is_named(table, message):
    with pytest.raises(UserError, match=message):
        render(table, 32)


def test_attributes_that_do_not_fit_their_images_are_named():
    images, labels = torch.zeros(2, 3, 4, 4).byte(), torch.zeros(2).long()
    with pytest.raises(UserError, match="3 images have attributes; all 2 must"):
        ImageSet(images, labels, ("a",), "x", Attributes(("b",), (("0", "1"),), torch.zeros(3, 1).long()))
    with pytest.raises(UserError, match="1 names have 0 lists"):
        Attributes(("b",), (), torch.zeros(3, 1).long())


def test_the_command_line_reads_what_is_held_out():
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Shapes, "data")
    arguments = ["--data=ebmzoo.data.Shapes", "--data.held_out=[{shape: star, colour: red}]", "--data.label=colour"]
    data = parser.instantiate(parser.parse_args(arguments)).data
    assert (data.held_out, data.label) == (({"shape": "star", "colour": "red"},), "colour")
