"""Masks, and the inpainting task on methods with known fillings."""

import json
import math

import pytest
import torch
from PIL import Image

from ebmzoo.data.masks import CentralSquare, FromFile, Half, Mask, Scribbles, distance, masked, read_mask
from ebmzoo.errors import UserError
from ebmzoo.methods import Inpaints, Samples
from ebmzoo.metrics import ClassifierFeatures, Pixels
from ebmzoo.report.scorecard import scorecard
from ebmzoo.sampling.langevin import ChainDivergedError
from ebmzoo.tasks import Inpainting
from ebmzoo.tasks.inpainting import mean_image
from support.oracle import Oracle
from support.pictures import cells, rows_and_columns
from support.tiny import TinyData, cdrl

# masks


@pytest.mark.parametrize(
    ("mask", "size", "rows", "columns"),
    [
        (CentralSquare(), 8, slice(2, 6), slice(2, 6)),
        (CentralSquare(0.25), 8, slice(3, 5), slice(3, 5)),
        (CentralSquare(0.01), 9, slice(4, 5), slice(4, 5)),
        (CentralSquare(1.0), 5, slice(5), slice(5)),
        (Half("left"), 8, slice(8), slice(4)),
        (Half("right"), 7, slice(7), slice(4, 7)),
        (Half("top"), 8, slice(4), slice(8)),
        (Half("bottom"), 7, slice(4, 7), slice(7)),
    ],
)
def test_what_a_mask_hides(mask, size, rows, columns):
    want = torch.zeros(size, size, dtype=torch.bool)
    want[rows, columns] = True
    assert torch.equal(mask(size), want)
    assert torch.equal(mask(size, seed=3), want)


def test_distance_from_a_segment():
    points = torch.tensor([[0.0, 1.0], [2.0, 0.0], [-3.0, 4.0], [0.5, 0.0]])
    a, b = torch.tensor([[0.0, 0.0], [2.0, 2.0]]), torch.tensor([[1.0, 0.0], [2.0, 2.0]])
    near, point = distance(points, a, b)
    assert near.tolist() == [1, 1, 5, 0]
    torch.testing.assert_close(point, (points - 2).norm(dim=1))  # a segment of no length is a point


def test_scribbles_are_a_function_of_their_seeds():
    mask = Scribbles()
    assert torch.equal(mask(32, seed=1), Scribbles()(32, seed=1))
    drawings = [mask(32, seed=1), mask(32, seed=2), Scribbles(seed=1)(32, seed=1), Scribbles(seed=1)(32, seed=2)]
    assert len({tuple(drawing.flatten().tolist()) for drawing in drawings}) == 4


def test_scribbles_are_strokes_of_their_width():
    """One straight part hides its rectangle and two half discs, cut by the image: at most length·width + π/4 width²."""
    for seed in range(20):
        area = float(Scribbles(strokes=1, parts=1, length=0.5, width=0.1)(128, seed=seed).double().mean())
        assert 0.1**2 * math.pi / 4 * 0.2 < area < (0.5 * 0.1 + 0.1**2 * math.pi / 4) * 1.1
    inside = next(s for s in range(99) if not edge(Scribbles(1, 1, 0.5, 0.1)(128, seed=s)).any())
    area = float(Scribbles(1, 1, 0.5, 0.1)(128, seed=inside).double().mean())
    assert area == pytest.approx(0.5 * 0.1 + 0.1**2 * math.pi / 4, rel=0.03)


def edge(hidden):
    return torch.cat([hidden[[0, -1]].flatten(), hidden[:, [0, -1]].flatten()])


def test_a_thin_scribble_still_hides_something():
    assert all(Scribbles(strokes=1, parts=1, length=1e-6, width=1e-6)(4, seed=seed).any() for seed in range(50))
    wide, many = Scribbles(width=0.3)(16, seed=1), Scribbles(strokes=40)(16, seed=1)
    assert int(wide.sum()) > int(Scribbles()(16, seed=1).sum())
    assert int(many.sum()) > int(Scribbles()(16, seed=1).sum())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CentralSquare(0.0), "fraction: 0.0"),
        (lambda: CentralSquare(1.5), "fraction: 1.5"),
        (lambda: Half("middle"), "side: middle"),
        (lambda: Scribbles(strokes=0), "strokes: 0"),
        (lambda: Scribbles(parts=0), "parts: 0"),
        (lambda: Scribbles(width=0.0), "width: 0.0"),
        (lambda: Scribbles(length=2.0), "length: 2.0"),
        (lambda: Scribbles(turn=200.0), "turn: 200.0"),
        (lambda: Scribbles(seed=-1), "seed: -1"),
    ],
)
def test_impossible_masks(make, message):
    with pytest.raises(UserError, match=f"{message} must be"):
        make()


def picture(path, mode, size, ground, colour):
    """A picture with its upper left pixel in `colour`."""
    image = Image.new(mode, size, ground)
    image.putpixel((0, 0), colour)
    image.save(path)
    return path


@pytest.mark.parametrize(
    ("mode", "ground", "colour"),
    [
        ("L", 0, 255),
        ("L", 0, 128),
        ("1", 0, 1),
        ("RGB", (0, 0, 0), (0, 0, 200)),
        ("RGBA", (0, 0, 0, 255), (255, 255, 255, 255)),
        ("RGBA", (255, 255, 255, 0), (0, 0, 0, 200)),
        ("LA", (0, 0), (0, 255)),
    ],
)
def test_files_of_every_kind_hide_one_pixel(tmp_path, mode, ground, colour):
    hidden = read_mask(picture(tmp_path / "m.png", mode, (3, 2), ground, colour))
    assert hidden.tolist() == [[True, False, False], [False, False, False]]


def test_a_mask_from_a_file(tmp_path):
    path = picture(tmp_path / "glasses.png", "L", (8, 8), 0, 255)
    mask = FromFile(str(path))
    assert (mask.name, mask.available(), int(mask(8).sum())) == ("glasses", None, 1)
    with pytest.raises(UserError, match=r"glasses\.png has 8×8 pixels; it must have 16×16"):
        mask(16)
    assert "there is no mask" in FromFile(str(tmp_path / "nowhere.png")).available()
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"text\.png is not an image"):
        read_mask(tmp_path / "text.png")
    Image.new("RGBA", (8, 8), (255, 255, 255, 0)).save(tmp_path / "nothing.png")
    with pytest.raises(UserError, match=r"nothing\.png hides nothing"):
        read_mask(tmp_path / "nothing.png")


# the task


class Filler(Oracle, Inpaints):
    """A method that fills in `filling(x, generator)`, and records its inputs."""

    def __init__(self, filling):
        super().__init__(torch.zeros(1, 1, 8, 8))
        self.filling, self.handed = filling, []

    def inpaint(self, x, hidden, *, steps=None, generator=None):
        self.handed.append((x, hidden))
        return Samples(torch.where(hidden, self.filling(x, generator), x), 11, "noise", 10, 1.0)


def truth(data):
    """A filling with the true images, batch by batch."""
    at = [0]

    def filling(x, generator):
        start = at[0] % len(data.test_set)
        at[0] += len(x)
        return data.test_set.float(slice(start, start + len(x)))

    return filling


def constant(value):
    return lambda x, generator: torch.full_like(x, value)


def evaluate(filling, folder=None, data=None, **changes):
    method = filling if isinstance(filling, Inpaints) else Filler(filling)
    return Inpainting(**{"masks": [CentralSquare()]} | changes)(method, data or TinyData(), folder)


def test_the_truth_has_no_error():
    figures = evaluate(truth(TinyData()), extractors=[Pixels()], repeats=3, batch_size=5).figures
    row = {name.removeprefix("central_square/"): value for name, value in figures.items()}
    assert [row[name] for name in ("mse", "hidden_mse", "perceptual_pixels", "diversity")] == [0, 0, 0, 0]
    assert (row["psnr"], row["hidden_psnr"]) == (math.inf, math.inf)
    assert row["ssim"] == pytest.approx(1)
    assert (row["known_unchanged"], row["nfe"]) == (1, 11)


def test_errors_of_a_constant_filling():
    """With c in all hidden pixels: (x − c)² there, a quarter of that over the whole image, and 10 log₁₀(4/MSE)."""
    data = TinyData()
    figures = evaluate(constant(0.5), data=data, extractors=[Pixels()], n=7, repeats=2).figures
    x = data.test_set.float(slice(7)).double()
    square = (x[..., 2:6, 2:6] - 0.5).square().flatten(1).mean(1)
    assert figures["central_square/hidden_mse"] == pytest.approx(float(square.mean()))
    assert figures["central_square/hidden_psnr"] == pytest.approx(float(10 * torch.log10(4 / square).mean()))
    assert figures["central_square/mse"] == pytest.approx(float(square.mean()) / 4, rel=1e-5)
    assert figures["central_square/psnr"] == pytest.approx(float(10 * torch.log10(16 / square).mean()), rel=1e-5)
    filled = x.clone()
    filled[..., 2:6, 2:6] = 0.5
    a, b = (y.flatten(1) / y.flatten(1).norm(dim=1, keepdim=True) for y in (filled, x))
    assert figures["central_square/perceptual_pixels"] == pytest.approx(float((a - b).norm(dim=1).mean()), rel=1e-5)
    assert figures["central_square/diversity"] == 0


def test_the_baseline_is_the_mean_of_training_images():
    data = TinyData()
    mean = data.train_set.images.double().mean(0) / 127.5 - 1
    torch.testing.assert_close(mean_image(data.train_set.images).double(), mean, rtol=1e-6, atol=1e-6)
    square = (data.test_set.float().double() - mean)[..., 2:6, 2:6].square()
    figures = evaluate(constant(0.0), data=data, extractors=[Pixels()]).figures
    assert figures["mean/central_square/hidden_mse"] == pytest.approx(float(square.mean()), rel=1e-5)
    assert figures["mean/central_square/perceptual_pixels"] > 0
    assert not {f"mean/central_square/{name}" for name in ("diversity", "nfe", "known_unchanged")} & set(figures)


def test_hidden_pixels_are_not_passed_to_the_method():
    data, method = TinyData(), Filler(constant(0.0))
    evaluate(method, data=data, masks=[Half("left"), Scribbles()], n=6, repeats=2, batch_size=4)
    assert [len(x) for x, _ in method.handed] == [4, 2] * 4
    for at, (x, hidden) in enumerate(method.handed):
        real = data.test_set.float(slice(4) if at % 2 == 0 else slice(4, 6))
        assert hidden.dtype == torch.bool
        assert torch.equal(x, torch.where(hidden, 0.0, real))
    drawings = torch.cat([hidden for _, hidden in method.handed[-4:-2]])
    assert len(drawings.flatten(1).unique(dim=0)) == 6, "each image has a drawing of its own"
    assert torch.equal(drawings, torch.cat([hidden for _, hidden in method.handed[-2:]])), "the same in each repeat"


class Cheat(Filler):
    """Changes one known value of one filling by the smallest amount that a float allows."""

    def inpaint(self, x, hidden, *, steps=None, generator=None):
        images = super().inpaint(x, hidden).images
        if len(self.handed) == 3:
            images[2, 0, 7, 7] = torch.nextafter(images[2, 0, 7, 7], torch.tensor(2.0))
        return Samples(images, 11, "noise", 10, 1.0)


def test_one_changed_known_value_is_detected():
    assert evaluate(Cheat(constant(0.0))).figures["central_square/known_unchanged"] == 0
    assert evaluate(Cheat(constant(0.0)), repeats=2).figures["central_square/known_unchanged"] == 1


def test_diversity_is_the_spread_over_repeats():
    signs = iter([1, -1, 1, -1])
    figures = evaluate(lambda x, generator: torch.full_like(x, 0.3 * next(signs))).figures
    assert figures["central_square/diversity"] == pytest.approx(0.3 * math.sqrt(4 / 3), rel=1e-5)
    assert "central_square/diversity" not in evaluate(constant(0.0), repeats=1).figures


def test_fillings_have_noise_of_their_own_that_masks_share():
    drawn = []

    def filling(x, generator):
        drawn.append(torch.rand(x.shape, generator=generator))
        return drawn[-1]

    evaluate(filling, masks=[CentralSquare(), Half("top")], n=6, repeats=3, batch_size=4)
    first, second = drawn[:6], drawn[6:]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert len(torch.cat(first).flatten(1).unique(dim=0)) == 18


def test_fillings_beyond_the_range_count_as_they_are_seen():
    beyond, bound = (evaluate(constant(value)).figures for value in (3.0, 1.0))
    assert beyond["central_square/hidden_mse"] == bound["central_square/hidden_mse"]


def test_training_images_can_be_filled_in():
    data, method = TinyData(), Filler(constant(0.0))
    result = evaluate(method, data=data, split="train", n=5, repeats=1)
    assert torch.equal(method.handed[0][0], masked(data.train_set.float(slice(5)), CentralSquare()(8)))
    assert result.protocol["images_of_training"] == 5
    assert "images" not in result.protocol


def test_pictures_and_table(tmp_path):
    masks: list[Mask] = [CentralSquare(), Half("left")]
    result = evaluate(constant(1.0), tmp_path, masks=masks, repeats=3, shown=2, n=4)
    assert result.pictures == [str(tmp_path / f"inpainting_{name}.png") for name in ("central_square", "left_half")]
    columns = ["x", "visible", "filling 1", "filling 2", "filling 3"]
    assert rows_and_columns(result.pictures[1], 2) == (["image 1", "image 2"], columns)
    levels = cells(result.pictures[1], 2, 5)[0, :, 0, 0, 0].tolist()
    assert levels == [int(TinyData().test_set.images[0, 0, 0, 0]), 128, 255, 255, 255]
    protocol = json.loads(result.write(tmp_path).read_text())["protocol"]
    assert protocol["chains"]["full"] == {"start": "noise", "steps": 10, "temperature": 1.0}
    text = scorecard(tmp_path, ["inpainting"])
    assert "4 test images of tiny; MSE in units of [-1, 1]; SSIM window 7" in text
    rows = {line.split()[0] for line in text.splitlines() if line}
    assert {"central_square", "left_half", "mean/central_square", "mean/left_half"} <= rows


def test_a_diverged_chain_is_a_note():
    def diverges(x, generator):
        raise ChainDivergedError("left at step 1")

    result = evaluate(diverges, extractors=[Pixels()])
    assert result.notes == ["central_square/mse: left at step 1"]
    assert math.isnan(result.figures["central_square/mse"])
    assert result.figures["mean/central_square/perceptual_pixels"] > 0


def test_unavailable_parts_are_noted():
    lacking = [ClassifierFeatures("nowhere.ckpt")]
    task = Inpainting([FromFile("nowhere.png"), Half()], extractors=lacking, n=2)
    result = task(Filler(constant(0.0)), TinyData())
    assert result.notes == task.missing()
    assert ["nowhere.png" in result.notes[0], "nowhere.ckpt" in result.notes[1]] == [True, True]
    assert {name.split("/")[-2] for name in result.figures} == {"bottom_half"}
    assert not any("perceptual" in name for name in result.figures)


def test_supported_methods():
    task = Inpainting([Half()])
    assert task.supports(Filler(constant(0.0)))
    assert not task.supports(Oracle(torch.zeros(1, 1, 8, 8)))


@pytest.mark.parametrize("wrong", [{"n": 0}, {"repeats": 0}, {"batch_size": 0}, {"shown": 0}])
def test_numbers_out_of_range(wrong):
    with pytest.raises(UserError, match=rf"inpainting\.{next(iter(wrong))} is 0; it must be 1 or more"):
        Inpainting([Half()], **wrong)


@pytest.mark.parametrize("masks", [[], [Half("top"), Half("top")]])
def test_masks_have_names_of_their_own(masks):
    with pytest.raises(UserError, match=r"inpainting\.masks is \[.*\]; list one or more with different names"):
        Inpainting(masks)


def test_a_model_of_levels_fills_in():
    figures = evaluate(cdrl(), n=3, repeats=2, masks=[Scribbles()]).figures
    assert figures["scribbles/known_unchanged"] == 1
    assert figures["scribbles/diversity"] > 0
