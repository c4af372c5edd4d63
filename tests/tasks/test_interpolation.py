"""Paths between latents: their ends, their evenness, and the images that they start from."""

import json
import math

import pytest
import torch

from ebmzoo.errors import UserError
from ebmzoo.report.scorecard import scorecard
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.tasks import Interpolation
from ebmzoo.tasks.interpolation import draw_strips, interpolate, path_ratio
from support.generators import GeneratorOnly, Linear, orthogonal
from support.oracle import Oracle
from support.pictures import cells, rows_and_columns
from support.tiny import SIZE, TinyData


def latents(n=3, size=64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, n, size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["linear", "spherical"])
def test_the_ends_of_a_path_are_the_latents_to_the_bit(kind):
    for dtype in (torch.float32, torch.float64):
        z1, z2 = latents().to(dtype)
        path = interpolate(z1, z2, 7, kind)
        assert path.shape == (3, 7, 64)
        assert torch.equal(path[:, 0], z1)
        assert torch.equal(path[:, -1], z2)


def test_linear_path_is_the_paper_s():
    z1, z2 = latents()
    path = interpolate(z1, z2, 5)
    for i, alpha in enumerate((0, 0.25, 0.5, 0.75, 1)):
        torch.testing.assert_close(path[:, i], (1 - alpha) * z1 + alpha * z2)


def test_spherical_path_keeps_norm_and_angle():
    z1, z2 = (z / z.norm(dim=1, keepdim=True) for z in latents())
    path = interpolate(z1, z2, 9, "spherical")
    torch.testing.assert_close(path.norm(dim=2), torch.ones(3, 9, dtype=torch.float64))
    angles = (path[:, 1:] * path[:, :-1]).sum(2).acos()
    whole = (z1 * z2).sum(1).acos()
    torch.testing.assert_close(angles, whole[:, None].expand(3, 8) / 8)


def test_spherical_path_between_parallel_latents_is_the_line():
    z1, _ = latents()
    assert torch.equal(interpolate(z1, 3 * z1, 5, "spherical"), interpolate(z1, 3 * z1, 5))


def test_path_ratio_of_known_paths():
    even = torch.linspace(-1, 1, 5).view(5, 1, 1, 1).expand(5, 1, 4, 4)
    assert path_ratio(even) == pytest.approx(1)
    jump = torch.tensor([0.0, 0, 0, 1, 1]).view(5, 1, 1, 1).expand(5, 1, 4, 4)
    assert path_ratio(jump) == pytest.approx(4), "points − 1"
    assert path_ratio(torch.tensor([0.0, 1, 4]).view(3, 1, 1, 1)) == pytest.approx(3 / 2)
    assert math.isnan(path_ratio(torch.zeros(5, 1, 4, 4)))


def test_strips_end_in_the_decoded_latents_to_the_bit():
    # with a diagonal A a sum of products has one term, so that no order of summation can change it
    method = Linear(0.2 * torch.eye(SIZE**2, dtype=torch.float64))
    z1, z2 = latents()
    strips, steps = draw_strips(method, z1, z2, 5)
    assert (strips.shape, steps) == ((3, 5, 1, 8, 8), 0)
    assert torch.equal(strips[:, 0], method.decode(z1))
    assert torch.equal(strips[:, -1], method.decode(z2))
    assert not strips.requires_grad


def test_a_linear_generator_makes_even_paths():
    result = Interpolation()(Linear(orthogonal()), TinyData())
    assert result.figures["latent/path_ratio"] == pytest.approx(1, abs=1e-4)
    assert result.figures["real/path_ratio"] == pytest.approx(1, abs=1e-4)
    assert result.figures["real/end_mse"] == pytest.approx(0, abs=1e-12)
    assert (result.figures["latent/nfe"], result.figures["real/nfe"]) == (1, 2)
    assert result.pictures == []
    # On a sphere through ends of different norms the path is uneven: the figure must show it.
    assert Interpolation(kind="spherical")(Linear(orthogonal()), TinyData()).figures["real/path_ratio"] > 1.001


def test_ends_are_compared_with_their_own_images():
    """If inference halves its input, each end differs from its image by half of it."""

    class Half(Linear):
        def infer(self, x):
            return super().infer(x) / 2

    data = TinyData()
    result = Interpolation(pairs=3)(Half(orthogonal()), data)
    law = (data.test_set.float(slice(6)) / 2).square().mean().item()
    assert result.figures["real/end_mse"] == pytest.approx(law, rel=1e-5)


def test_revision_follows_the_method_s_chain():
    """On E = |x|²/2 without noise a step multiplies an image by 1 − η."""
    method = Linear(orthogonal(), Langevin(steps=3, step_size=0.1, noise=0.0))
    z1, z2 = latents()
    plain, _ = draw_strips(method, z1, z2, 5)
    for steps, taken in ((None, 3), (2, 2)):
        revised, steps_taken = draw_strips(method, z1, z2, 5, steps=steps)
        assert steps_taken == taken
        torch.testing.assert_close(revised, plain * 0.9**taken)
    result = Interpolation(steps=2)(method, TinyData())
    assert (result.figures["latent/nfe"], result.figures["real/nfe"]) == (3, 4)
    assert result.protocol["chains"] == {"full": {"start": "generator", "steps": 2, "temperature": 0.0}}
    assert Interpolation(steps=2)(GeneratorOnly(orthogonal()), TinyData()).figures["latent/nfe"] == 1


def test_a_chain_that_diverges_is_a_note(tmp_path):
    method = Linear(orthogonal(), Langevin(steps=3, step_size=1e150, noise=0.0))
    result = Interpolation(steps=None)(method, TinyData(), tmp_path)
    assert [note.partition(":")[0] for note in result.notes] == ["latent", "real"]
    assert math.isnan(result.figures["latent/path_ratio"])
    assert json.loads(result.write(tmp_path).read_text())["figures"]["real/path_ratio"] is None
    assert "–" in scorecard(tmp_path, ["interpolation"])


def test_supported_methods():
    a, task = orthogonal(), Interpolation()
    assert task.supports(Linear(a))
    assert task.supports(GeneratorOnly(a))
    assert not task.supports(Oracle(TinyData().train_set.float()))
    for method in (GeneratorOnly(a), Linear(a, infers=False)):
        assert {name.partition("/")[0] for name in task(method, TinyData()).figures} == {"latent"}


def test_file_pictures_and_table(tmp_path):
    result = Interpolation(pairs=2, points=5)(Linear(orthogonal()), TinyData(), tmp_path)
    assert result.pictures == [str(tmp_path / f"interpolation_{kind}.png") for kind in ("latent", "real")]
    between = [f"α = {alpha}" for alpha in ("0", "0.25", "0.5", "0.75", "1")]
    assert rows_and_columns(result.pictures[0], 2) == (["pair 1", "pair 2"], between)
    assert rows_and_columns(result.pictures[1], 2) == (["pair 1", "pair 2"], ["x₁", *between, "x₂"])
    real = TinyData().test_set.images[:4].unflatten(0, (2, 2))
    assert torch.equal(cells(result.pictures[1], 2, 7)[:, [0, -1], :1], real), "the real images at both ends"
    result.write(tmp_path)
    text = scorecard(tmp_path, ["interpolation"])
    assert "(2 linear strips of 5 images; no chain, from generator; 4 test images of tiny; MSE in units of [-1" in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    assert rows["path_ratio"] == ["nfe", "end_mse"]
    assert rows["latent"][2] == "–"


def test_a_small_test_set_makes_fewer_strips():
    class Few(TinyData):
        def load(self):
            train, test = super().load()
            return train, test.take(slice(5))

    assert Interpolation()(Linear(orthogonal()), Few()).protocol["images"] == 4


@pytest.mark.parametrize("wrong", [{"pairs": 0}, {"points": 2}, {"steps": -1}, {"kind": "cubic"}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match=rf"interpolation\.{next(iter(wrong))} is {next(iter(wrong.values()))}"):
        Interpolation(**wrong)
