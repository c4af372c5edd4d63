"""The stages task, on a method with chains that move training images from known offsets to themselves."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from jsonargparse import ArgumentParser

from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import SamplesInStages, SampleStage
from ebmzoo.metrics import ClassifierFeatures, Pixels
from ebmzoo.report.scorecard import scorecard
from ebmzoo.sampling.langevin import ChainDivergedError
from ebmzoo.tasks import Stages
from ebmzoo.tasks.stages import points
from support.oracle import Oracle
from support.pictures import cells, labels, rows_and_columns
from support.tiny import TinyData

BYTE = 1 / 127.5


class Staged(Oracle, SamplesInStages):
    """Sample i is training image i, lighter by a number of bytes.

    In the semantic stage by 10 + 2(K − k), in the texture stage by 10(1 − t/T), from noise by 30(1 − t/T). A semantic
    step costs 2 evaluations and 3 seconds, an image step 1 and 1. With `denoises` a third stage of two states follows.
    """

    def __init__(self, images, denoises=False, diverges_at=None):
        super().__init__(images)
        self.denoises, self.diverges_at = denoises, diverges_at
        self.clock, self.calls, self.seed = 0.0, [], None

    def stages(self, n, *, latent_steps=None, image_steps=None, keep=12, generator=None):
        if latent_steps == 13:
            raise UserError("steps is 13, but there is no such chain")
        if latent_steps == self.diverges_at:
            raise ChainDivergedError("step 3")
        self.seed = generator.initial_seed() if self.seed is None else self.seed
        first = generator.initial_seed() - self.seed
        self.calls.append((latent_steps, image_steps, first, n))
        self.clock += 3 * latent_steps + image_steps
        images, nfe = self.images[first : first + n], 0
        made = []
        if latent_steps:
            at = kept(latent_steps, keep)
            states = [images + (10 + 2 * (latent_steps - k)) * BYTE for k in at]
            made.append(SampleStage("semantic", states, [1 + 2 * k for k in at]))
            nfe = 1 + 2 * latent_steps
        if image_steps:
            high, at = 10 if latent_steps else 30, kept(image_steps, keep)
            states = [images + high * (1 - t / image_steps) * BYTE for t in at]
            made.append(SampleStage("texture", states, [nfe + t for t in at]))
            if self.denoises:
                last = nfe + image_steps
                made.append(SampleStage("denoised", [states[-1], images - 5 * BYTE], [last, last + 1]))
        return made


def kept(steps, keep):
    return [round(i * steps / (keep - 1)) for i in range(keep)]


def task(**changes):
    return Stages(**{"steps": ((4, 10), (0, 20)), "n": 32, "extractors": [Pixels()], "batch_size": 12} | changes)


def shifted(by):
    """The Fréchet distance of images with 64 pixels that are all lighter by `by` grey levels."""
    return pytest.approx(64 * (by * BYTE) ** 2, rel=1e-3, abs=1e-6)


def test_each_stage_is_measured_where_it_starts_and_ends():
    data = TinyData(n=32)
    result = task()(Staged(data.train_set.float()), data)
    figures = {name: value for name, value in result.figures.items() if not name.endswith("seconds")}
    assert figures == {
        "4+10/semantic_start/nfe": 1,
        "4+10/semantic_start/fd_pixels": shifted(18),
        "4+10/semantic_end/nfe": 9,
        "4+10/semantic_end/fd_pixels": shifted(10),
        "4+10/texture_end/nfe": 19,
        "4+10/texture_end/fd_pixels": shifted(0),
        "0+20/texture_start/nfe": 0,
        "0+20/texture_start/fd_pixels": shifted(30),
        "0+20/texture_end/nfe": 20,
        "0+20/texture_end/fd_pixels": shifted(0),
    }
    assert result.protocol["real_images"] == result.protocol["n"] == 32


@pytest.mark.parametrize(("real", "compared_with", "exact"), [("all", 32, False), ("n", 8, True)])
def test_samples_are_compared_with_all_of_the_split_or_with_equally_many(real, compared_with, exact):
    data = TinyData(n=32)
    result = task(n=8, real=real)(Staged(data.train_set.float()), data)
    assert result.protocol["real_images"] == compared_with
    assert (result.figures["4+10/texture_end/fd_pixels"] == shifted(0)) == exact, "the first 8 images are the samples"


def test_a_last_denoising_is_a_stage_of_its_own():
    data = TinyData(n=32)
    figures = task()(Staged(data.train_set.float(), denoises=True), data).figures
    assert (figures["4+10/denoised_end/nfe"], figures["0+20/denoised_end/nfe"]) == (20, 21)
    assert not any("denoised_start" in name for name in figures), "the end of the texture"
    assert [row for row in figures if row.endswith("seconds")] == [
        "4+10/semantic_end/seconds",
        "4+10/denoised_end/seconds",
        "0+20/denoised_end/seconds",
    ]
    # a pixel below 5 bytes cannot be made darker by 5, so the distance is not shifted(−5)
    dark = (data.train_set.images.float() - 5).clamp(min=0) / 127.5
    real = data.train_set.images.float() / 127.5
    least = (dark - real).mean(0).square().sum().item()
    assert least <= figures["4+10/denoised_end/fd_pixels"] <= 1.1 * least
    assert figures["4+10/texture_end/fd_pixels"] == shifted(0)


def test_energy_is_the_mean_over_all_samples_at_each_state():
    data = TinyData(n=32)
    curves = task(keep=3)(Staged(data.train_set.float()), data).curves
    brightness = data.train_set.float().double().mean().item()
    semantic = [brightness + by * BYTE for by in (18, 14, 10)]
    assert curves["4+10/semantic/energy"] == pytest.approx(semantic, abs=1e-6)
    assert curves["4+10/semantic/nfe"] == [1, 5, 9]
    texture = [brightness + by * BYTE for by in (10, 5, 0)]
    assert curves["4+10/texture/energy"] == pytest.approx(texture, abs=1e-6)
    assert curves["4+10/texture/nfe"] == [9, 14, 19]
    assert curves["0+20/texture/nfe"] == [0, 10, 20]


def test_rows_share_their_noise_and_the_clock_counts_all_batches(monkeypatch):
    data = TinyData(n=32)
    method = Staged(data.train_set.float())
    monkeypatch.setattr("ebmzoo.tasks.base.time", SimpleNamespace(perf_counter=lambda: method.clock))
    figures = task(extractors=[])(method, data).figures
    batches = [(0, 12), (12, 12), (24, 8)]
    assert [call for call in method.calls if call[:2] == (4, 10)] == [(4, 10, *batch) for batch in batches]
    assert [call for call in method.calls if call[:2] == (4, 0)] == [(4, 0, *batch) for batch in batches]
    assert [call for call in method.calls if call[:2] == (0, 20)] == [(0, 20, *batch) for batch in batches]
    assert len(method.calls) == 9
    assert {name: value for name, value in figures.items() if name.endswith("seconds")} == {
        "4+10/semantic_end/seconds": 3 * 12,
        "4+10/texture_end/seconds": 3 * 22,
        "0+20/texture_end/seconds": 3 * 20,
    }


def test_pictures_have_a_sample_a_row_from_its_first_state_to_its_last(tmp_path):
    data = TinyData(n=32)
    result = task(extractors=[], keep=4, shown=3)(Staged(data.train_set.float()), data, tmp_path)
    names = ["stages_4_10.png", "stages_4_10_energy.png", "stages_0_20.png", "stages_0_20_energy.png"]
    assert result.pictures == [str(tmp_path / name) for name in names]
    assert all((tmp_path / name).exists() for name in names)
    semantic, texture = ("semantic", (1, 3, 7, 9)), ("texture", (12, 16, 19))
    for name, stages, first in (
        ("stages_4_10.png", (semantic, texture), 18),
        ("stages_0_20.png", (("texture", (0, 7, 13, 20)),), 30),
    ):
        names = [f"{stage}, NFE {nfe}" for stage, states in stages for nfe in states]
        assert rows_and_columns(tmp_path / name, 3) == (["sample 1", "sample 2", "sample 3"], names)
        shown, real = cells(tmp_path / name, 3, len(names))[:, :, 0], data.train_set.images[:3, 0]
        assert torch.equal(shown[:, 0], real + first)
        assert torch.equal(shown[:, -1], real)
        plot = set(labels(tmp_path / name.replace(".png", "_energy.png")))
        assert {"mean energy E(x)", "network evaluations per image", *dict(stages)} <= plot


def test_a_diverging_row_leaves_the_others():
    data = TinyData(n=32)
    result = task()(Staged(data.train_set.float(), diverges_at=0), data)
    assert math.isnan(result.figures["0+20/nfe"])
    assert result.notes == ["0+20/nfe: step 3"]
    assert result.figures["4+10/texture_end/fd_pixels"] == shifted(0)
    assert not any(name.startswith("0+20/texture") for name in (*result.figures, *result.curves))


def test_steps_without_a_chain_are_noted():
    data = TinyData(n=32)
    result = task(steps=((13, 1), (4, 10)))(Staged(data.train_set.float()), data)
    assert result.notes == ["13+1: steps is 13, but there is no such chain"]
    assert result.figures["4+10/texture_end/fd_pixels"] == shifted(0)


def test_scorecard_and_protocol(tmp_path):
    data = TinyData(n=32)
    result = task(steps=((4, 0), (4, 10), (0, 20)))(Staged(data.train_set.float()), data)
    assert result.protocol["chains"]["0+20"]["start"] == "noise"
    assert result.protocol["chains"]["4+10"] == {"start": "buffer", "steps": 5, "temperature": 0.25}
    assert list(result.figures)[:2] == ["4+0/semantic_start/nfe", "4+0/semantic_end/nfe"]
    stored = json.loads(result.write(tmp_path).read_text())
    assert stored["curves"]["4+10/texture/nfe"][-1] == 19
    text = scorecard(tmp_path, ["stages"])
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    assert rows["4+10/semantic_start"][:2] == ["1", "–"], "nobody knows the seconds up to there"
    assert rows["4+10/texture_end"][0] == "19"
    assert "0+20: 5 Langevin steps from noise at temperature 0.25" in text


def test_points_of_stages_that_have_no_steps():
    a, b = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    assert list(points([SampleStage("semantic", [a, b], [1, 3]), SampleStage("texture", [b], [3])])) == [
        "semantic_start",
        "semantic_end",
    ]
    assert list(points([SampleStage("semantic", [a], [1]), SampleStage("texture", [a, b], [1, 2])])) == [
        "semantic_end",
        "texture_end",
    ]
    still = points([SampleStage("texture", [a, a], [0, 5])])
    assert [nfe for _, nfe in still.values()] == [0, 5], "a chain that does not move still has a start and an end"


def test_unavailable_parts_are_noted():
    data = TinyData(n=32)
    without = task(extractors=[ClassifierFeatures("nowhere.ckpt"), Pixels()])
    result = without(Staged(data.train_set.float()), data)
    assert result.notes == without.missing()
    assert len(result.notes) == 1
    assert "4+10/texture_end/fd_pixels" in result.figures


def test_supported_methods():
    images = TinyData().train_set.float()
    assert task().supports(Staged(images))
    assert not task().supports(Oracle(images))


def test_steps_are_read_from_a_config():
    parser = ArgumentParser()
    parser.add_class_arguments(Stages, "task")
    changes = parser.parse_args(["--task.steps=[[20, 90], [0, 100]]"])
    assert parser.instantiate(changes).task.steps == ((20, 90), (0, 100))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": ()}, r"stages\.steps is \[\]"),
        ({"steps": ((1, 2), (1, 2))}, r"stages\.steps is \[\[1, 2\], \[1, 2\]\]"),
        ({"steps": ((0, 0),)}, r"stages\.steps is \[\[0, 0\]\]"),
        ({"steps": ((-1, 5),)}, r"stages\.steps is \[\[-1, 5\]\]"),
        ({"n": 1}, r"stages\.n is 1; it must be 2"),
        ({"n": 0, "extractors": None}, r"stages\.n is 0; it must be 1"),
        ({"keep": 1}, r"stages\.keep is 1"),
        ({"shown": 0}, r"stages\.shown is 0"),
        ({"batch_size": 0}, r"stages\.batch_size is 0"),
    ],
)
def test_numbers_out_of_range_are_errors(changes, message):
    with pytest.raises(UserError, match=message):
        task(**changes)
