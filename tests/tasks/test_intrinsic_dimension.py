"""The intrinsic dimension of images under energies whose Hessian is known."""

import json
import math

import pytest
import torch

from ebmzoo.errors import UserError
from ebmzoo.methods import HasFlatDirections
from ebmzoo.tasks import IntrinsicDimension
from ebmzoo.tasks.intrinsic_dimension import curvatures, png_size, rank_correlation
from support.oracle import Oracle
from support.pictures import rows_and_columns
from support.tiny import TinyData, energy_matching, mdsm


class Bowl(Oracle, HasFlatDirections):
    """Curved by 2 along the pixels from `flat` on that are above −3/4, by −2 along the last one, and flat elsewhere."""

    flat_curvature = 1.0

    def energy(self, x):
        x = x.flatten(1)
        curved = torch.sigmoid(1000 * (x.detach() + 0.75)).round()
        curved[:, -1] = -1
        return (curved * x.square()).sum(1)


def test_flat_directions_are_counted(tmp_path):
    data = TinyData()
    for i, image in enumerate(data.test_set.images):
        image.flatten()[4 * i + 2 :] = 0  # the more is black, the flatter is E, and the shorter the file
    images = data.test_set.float().flatten(1)
    expected = (images[:, :-1] <= -0.75).sum(1).double()
    torch.manual_seed(0)
    result = IntrinsicDimension(n=16, batch_size=5)(Bowl(data.train_set.float()), data, tmp_path)
    assert result.figures["lid/mean"] == pytest.approx(float(expected.mean()))
    assert result.figures["lid/std"] == pytest.approx(float(expected.std()))
    assert result.figures["lid/share"] == pytest.approx(float(expected.mean()) / 64)
    assert result.figures["negative"] == 1
    assert result.protocol["threshold"] == 1
    assert result.figures["spearman_png"] < -0.9
    rows, columns = rows_and_columns(result.pictures[0], 2)
    assert rows == ["least LID", "largest LID"]
    assert len(columns) == 8
    assert json.loads(result.write(tmp_path).read_text())["figures"]["negative"] == 1


def test_the_threshold_and_the_limit_of_columns():
    data = TinyData()
    method = Bowl(data.train_set.float())
    result = IntrinsicDimension(n=16, threshold=3.0, limit=64 * 3)(method, data)
    assert result.figures["lid/mean"] == 64
    assert math.isnan(result.figures["spearman_png"])
    assert result.protocol["images"] == 3


def test_the_spectrum_of_a_quadratic():
    torch.manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    eigenvalues = torch.tensor([-3.0, -1.0, 0.0, 0.5, 2.0, 7.0], dtype=torch.float64)
    matrix = basis @ eigenvalues.diag() @ basis.T
    found = curvatures(lambda x: torch.einsum("bi,ij,bj->b", x, matrix, x) / 2, torch.randn(3, 6, dtype=torch.float64))
    torch.testing.assert_close(found, eigenvalues.expand(3, 6), atol=1e-10, rtol=0)


def test_ranks_correlate_whatever_the_scale():
    a = torch.tensor([1.0, 2.0, 30.0, 4.0])
    assert rank_correlation(a, a.exp().double()) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)


def test_more_complex_images_have_longer_files():
    flat = torch.zeros(3, 16, 16, dtype=torch.uint8)
    noise = torch.randint(0, 256, (1, 16, 16), dtype=torch.uint8)
    assert png_size(flat) < png_size(noise)


def test_it_is_of_energy_matching_with_attention():
    task = IntrinsicDimension(n=2)
    method = energy_matching(flat_curvature=2.0)
    assert task.supports(method)
    assert not task.supports(mdsm())
    assert method.flat_curvature == pytest.approx(20)
    result = task(method, TinyData())
    assert 0 < result.figures["lid/share"] <= 1


@pytest.mark.parametrize("changes", [{"n": 1}, {"threshold": 0.0}, {"limit": 0}, {"batch_size": 0}])
def test_numbers_out_of_range_are_refused(changes):
    with pytest.raises(UserError, match=f"intrinsic_dimension.{next(iter(changes))} is "):
        IntrinsicDimension(**changes)
