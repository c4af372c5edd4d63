"""Points of the plane: their exact densities, their draws and their order."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from ebmzoo.data import Checkerboard, GaussianMixture, Moons, Rings
from ebmzoo.data.normal_integrals import normal_mass
from ebmzoo.errors import UserError

NOISE = [(1.0, 0.0), (0.97, 0.25), (0.08, 0.997)]
FAMILY = [Checkerboard(), Checkerboard(scale=4.0), GaussianMixture(), GaussianMixture(3, 0.5, 0.2), Moons(), Rings()]


def edges(half_width, cells):
    return half_width * torch.linspace(-1, 1, cells + 1, dtype=torch.float64)


def quadrature(data, grid, alpha_bar, sigma_bar):
    """The mass of each cell by 8×8 Gauss points of the density."""
    at, weights = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(8))
    half = float(grid[1] - grid[0]) / 2
    axis = ((grid[:-1] + grid[1:])[:, None] / 2 + half * at).flatten()
    values = data.density(torch.cartesian_prod(axis, axis), alpha_bar, sigma_bar)
    cells = len(grid) - 1
    return torch.einsum("iajb,a,b->ij", values.view(cells, 8, cells, 8), weights, weights) * half**2


@pytest.mark.parametrize(("alpha_bar", "sigma_bar"), NOISE)
def test_every_density_is_one_in_all_and_agrees_with_the_masses_of_cells(alpha_bar, sigma_bar):
    for data in FAMILY:
        # a multiple of a square's side, so that no cell of a board without noise is cut
        wide = edges(data.reach * alpha_bar * 2 + 10 * sigma_bar if sigma_bar else 2 * data.reach, 32)
        masses = data.masses(wide, alpha_bar, sigma_bar)
        assert masses.dtype == torch.float64
        assert float(masses.sum()) == pytest.approx(1, abs=1e-9), data.name
        assert torch.allclose(quadrature(data, wide, alpha_bar, sigma_bar), masses, atol=1e-9), data.name


def test_noise_scales_the_mean_and_adds_to_the_variance():
    for data in FAMILY:
        wide = edges(2 * data.reach + 5, 1200)
        axis = wide[:-1] + wide.diff() / 2
        clean, noisy = data.masses(wide).sum(1), data.masses(wide, 0.6, 0.3).sum(1)
        assert float(noisy @ axis) == pytest.approx(0.6 * float(clean @ axis), abs=1e-4), data.name
        expected = 0.6**2 * float(clean @ axis**2) + 0.3**2
        assert float(noisy @ axis**2) == pytest.approx(expected, abs=1e-4), data.name


def test_the_board_is_black_where_column_and_row_are_both_even_or_odd():
    data = Checkerboard(scale=2.0)
    centres = torch.tensor([-1.5, -0.5, 0.5, 1.5])
    expected = [[True, False, True, False], [False, True, False, True]] * 2
    points = torch.cartesian_prod(centres, centres)
    assert data.black(points).view(4, 4).tolist() == expected
    assert data.density(points).view(4, 4).tolist() == [[black / 8 for black in row] for row in expected]
    outside = torch.tensor([[-2.1, -1.5], [-1.5, 2.1], [3.5, 1.5], [-2.5, -2.5], [2.0, 2.0]])
    assert not data.black(outside).any()


@pytest.mark.parametrize("alpha_bar", [1.0, 0.9])
def test_a_uniform_blurred_a_little_is_half_at_an_edge_and_a_quarter_at_a_corner(alpha_bar):
    data = Checkerboard()
    full = 1 / (8 * (0.5 * alpha_bar) ** 2)
    shares = {(-0.75, -0.75): 1, (-0.25, -0.75): 0, (-0.75, -1): 1 / 2, (-0.5, -0.75): 1 / 2, (-1, -1): 1 / 4}
    shares |= {(0, 0): 1 / 2, (-0.5, -0.5): 1 / 2, (1, -1): 0, (1, -0.75): 0, (1, 1): 1 / 4, (-0.5, -1): 1 / 4}
    found = data.density(alpha_bar * torch.tensor(list(shares), dtype=torch.float64), alpha_bar, 0.01)
    expected = full * torch.tensor(list(shares.values()), dtype=torch.float64)
    # at a white corner, and within white, the next black is 0.5 ᾱ/σ̄ > 22 deviations away, or a line's ½ · 0
    assert torch.allclose(found, expected, atol=1e-12)


def test_masses_of_the_normal_keep_their_digits_in_both_tails():
    low = torch.tensor([-31.0, -6.0, -1.0, 0.5, 6.0, 30.0], dtype=torch.float64)
    expected = [norm.sf(30) - norm.sf(31), norm.sf(5) - norm.sf(6), 0.5 - norm.sf(1), norm.sf(0.5) - norm.sf(1.5)]
    expected += [norm.sf(6) - norm.sf(7), norm.sf(30) - norm.sf(31)]
    assert normal_mass(low, low + 1).tolist() == pytest.approx(expected, rel=1e-12, abs=0)
    far = Checkerboard().density(torch.tensor([[2.0, 2.0], [-2.0, -2.0]], dtype=torch.float64), 1.0, 0.05)
    assert float(far[0]) == pytest.approx(float(far[1]), rel=1e-12), "the board is the same turned by half"
    assert 1e-180 < far[0] < 1e-170


def test_black_shares_of_cells_that_the_lines_cut():
    data = Checkerboard()
    grid = edges(1.25, 7)
    areas = grid.diff()[:, None] * grid.diff()
    assert float((data.black_share(grid) * areas).sum()) == pytest.approx(2)
    halves = data.black_share(torch.tensor([-1.25, -0.75, -0.5, 0.0], dtype=torch.float64))
    expected = torch.tensor([[0.25, 0.5, 0], [0.5, 1, 0], [0, 0, 1]], dtype=torch.float64)
    assert torch.allclose(halves, expected)


@pytest.mark.parametrize("scale", [1.0, 3.3, 4.0])
def test_every_draw_is_black_and_its_class_is_its_square(scale):
    data = Checkerboard(scale=scale, n_train=20_000)
    points, labels = data.train_points, data.train_set.labels
    assert (points.shape, points.dtype, labels.dtype) == ((20_000, 2), torch.float32, torch.int64)
    assert bool(data.black(points).all())
    at = ((points.double() + scale) / (scale / 2)).floor().long()
    squares = torch.tensor([[0, 0], [0, 2], [1, 1], [1, 3], [2, 0], [2, 2], [3, 1], [3, 3]])
    assert torch.equal(at, squares[labels])
    assert len(data.classes) == 8
    # uniform within the squares: of 16 parts of each axis of each, the counts of one seed are near 20,000/128
    within = ((points.double() + scale) / (scale / 2) - at).mul(16).long()
    for axis in range(2):
        counts = torch.bincount(labels * 16 + within[:, axis], minlength=128)
        assert counts.min() > 100
        assert counts.max() < 220


def test_a_rounding_never_makes_a_draw_white():
    data = Checkerboard(scale=3.3)
    ends = (torch.tensor([0.0, 2**20 - 1]).double() + 0.5) / 2**20
    for column in range(4):
        for row in (column % 2, column % 2 + 2):
            at = torch.tensor([column, row]) + torch.cartesian_prod(ends, ends)
            assert bool(data.black((data.side * at - data.scale).float()).all())


def test_a_mixture_has_its_energy_and_its_normaliser():
    one = GaussianMixture(components=1, radius=0.7, std=0.1)
    points = torch.tensor([[0.7, 0.0], [0.8, -0.1], [-3.0, 2.0]], dtype=torch.float64)
    for alpha_bar, sigma_bar in NOISE:
        s = math.hypot(alpha_bar * 0.1, sigma_bar)
        expected = norm.pdf(points[:, 0], 0.7 * alpha_bar, s) * norm.pdf(points[:, 1], 0, s)
        assert one.density(points, alpha_bar, sigma_bar).numpy() == pytest.approx(expected, rel=1e-12, abs=0)
        assert one.energy(points, alpha_bar, sigma_bar)[0] == pytest.approx((0.7 * (1 - alpha_bar) / s) ** 2 / 2)
    for data in (one, GaussianMixture()):
        wide = edges(2.0, 400)
        axis = wide[:-1] + wide.diff() / 2
        z = (-data.energy(torch.cartesian_prod(axis, axis))).exp().sum() * 0.01**2
        assert math.log(z) == pytest.approx(data.log_z(), abs=1e-10)


def test_draws_of_a_mixture_are_around_their_components():
    data = GaussianMixture(components=4, radius=0.7, std=0.1, n_train=4000)
    for label, mean in enumerate([(0.7, 0), (0, 0.7), (-0.7, 0), (0, -0.7)]):
        mine = data.train_points[data.train_set.labels == label]
        assert 850 < len(mine) < 1150
        assert mine.mean(0).tolist() == pytest.approx(mean, abs=0.02)
        assert mine.std(0).tolist() == pytest.approx([0.1, 0.1], abs=0.01)
    assert len(data.classes) == 4


def test_rings_are_even_along_their_circles():
    data = Rings(rings=2, radius=0.8, std=0.05, n_train=20_000)
    angles = 2 * math.pi * torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for radius in (0.4, 0.8):
        on = data.density(radius * torch.stack([angles.cos(), angles.sin()], dim=1))
        assert float(on.std() / on.mean()) < 1e-6
    # of one density along the curves: the outer ring is twice as long
    assert data.train_set.labels.double().mean() == pytest.approx(2 / 3, abs=0.02)
    distance = data.train_points.norm(dim=1) - 0.4 * (1 + data.train_set.labels)
    assert distance.abs().max() < 0.3


def test_either_moon_ends_inside_the_other():
    data = Moons(radius=0.5, std=0.01, n_train=2000)
    upper, lower = (data.train_points[data.train_set.labels == k] for k in (0, 1))
    assert upper[:, 1].min() > -0.25 - 0.05
    assert lower[:, 1].max() < 0.25 + 0.05
    for points, centre in ((upper, (-0.25, -0.125)), (lower, (0.25, 0.125))):
        assert ((points - torch.tensor(centre)).norm(dim=1) - 0.5).abs().max() < 0.06
    assert len(upper) == pytest.approx(len(lower), abs=150)
    ends = torch.tensor([[-0.25 + 0.5, -0.125], [0.25 - 0.5, 0.125]], dtype=torch.float64)
    centres = torch.tensor([[0.25, 0.125], [-0.25, -0.125]], dtype=torch.float64)
    assert ((ends - centres).norm(dim=1) < 0.5).all()


def test_the_points_have_a_seed_apart_from_the_order():
    plain = Checkerboard(n_train=50, n_test=20)
    assert torch.equal(plain.train_points, Checkerboard(n_train=50, seed=7).train_points)
    assert torch.equal(plain.test_points, Checkerboard(n_train=9, n_test=20).test_points)
    assert not torch.equal(plain.train_points, Checkerboard(n_train=50, point_seed=1).train_points)
    assert not torch.equal(plain.train_points[:20], plain.test_points)


def batches(loader):
    return [images.flatten(1).tolist() for images, _ in loader]


def test_batches_are_images_with_the_labels_of_their_points():
    data = Checkerboard(n_train=40, n_test=1030, batch_size=16)
    for loader, sizes in ((data.train_dataloader(), [16, 16]), (data.val_dataloader(), [16] * 62 + [8])):
        found = list(loader)
        assert [len(images) for images, _ in found] == sizes
        for images, labels in found:
            assert (images.shape[1:], images.dtype, labels.dtype) == ((2, 1, 1), torch.float32, torch.int64)
            at = ((images.flatten(1).double() + 1) / 0.5).floor().long()
            assert torch.equal(at[:, 0] * 2 + at[:, 1] // 2, labels)
    seen = torch.cat([images.flatten(1) for images, _ in data.test_dataloader()])
    assert torch.equal(seen, data.test_points)


def test_the_order_is_a_function_of_the_seed_and_is_taken_up_anywhere():
    def loader(**changes):
        return Checkerboard(n_train=40, batch_size=8, **changes).train_dataloader()

    whole = batches(loader())
    assert whole == batches(loader())
    assert whole != batches(loader(seed=1))
    assert len({tuple(point) for batch in whole for point in batch}) == 40
    first = loader()
    two = [images.flatten(1).tolist() for _, (images, _) in zip(range(2), first, strict=False)]
    again = loader()
    again.load_state_dict(first.state_dict())
    assert two + batches(again) == whole


def test_processes_share_each_global_batch():
    def drawn(rank, world, batch_size):
        data = Checkerboard(n_train=40, batch_size=batch_size)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world)
        return batches(data.train_dataloader())

    first, second, whole = drawn(0, 2, 4), drawn(1, 2, 4), drawn(0, 1, 8)
    assert [a + b for a, b in zip(first, second, strict=True)] == whole


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Checkerboard(scale=0.0), "scale: 0.0"),
        (lambda: Checkerboard(n_train=0), "n_train: 0"),
        (lambda: Checkerboard(n_test=0), "n_test: 0"),
        (lambda: Checkerboard(batch_size=0), "batch_size: 0"),
        (lambda: Checkerboard(seed=-1), "seed: -1"),
        (lambda: Checkerboard(point_seed=-1), "point_seed: -1"),
        (lambda: Checkerboard(n_train=9, batch_size=10).train_dataloader(), "batch_size: 10 .* 9 "),
        (lambda: GaussianMixture(components=0), "components: 0"),
        (lambda: GaussianMixture(radius=-1.0), "radius: -1.0"),
        (lambda: GaussianMixture(std=0.0), "std: 0.0"),
        (lambda: Rings(rings=0), "rings: 0"),
        (lambda: Rings(radius=0.0), "radius: 0.0"),
        (lambda: Moons(std=1e-9), "std: 1e-09"),
        (lambda: Moons(radius=math.inf), "radius: inf"),
    ],
)
def test_impossible_numbers_are_named(make, word):
    with pytest.raises(UserError, match=word):
        make()
