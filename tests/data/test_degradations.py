"""Operators against their dense matrices, in double precision: the whole family, the same laws."""

import math

import pytest
import torch

from ebmzoo.data.degradations import (
    OPERATORS,
    Downsample,
    GaussianBlur,
    Grayscale,
    Identity,
    Masking,
    Projection,
    UniformBlur,
    consistent,
)
from ebmzoo.data.masks import CentralSquare, Half, Scribbles
from ebmzoo.errors import UserError

FAMILY = {
    "mean of channels": (Grayscale(), 3, 3),
    "luma": (Grayscale.luma(), 3, 3),
    "sr2": (Downsample(2), 2, 4),
    "sr4": (Downsample(4), 1, 8),
    "sr8": (Downsample(8), 1, 8),
    "identity": (Identity(), 2, 3),
    "half": (Masking(Half("left")), 2, 4),
    "square": (Masking(CentralSquare()), 1, 5),
    "scribbles": (Masking(Scribbles(seed=3)), 1, 6),
    "blur": (GaussianBlur(), 1, 8),
    "weak blur": (GaussianBlur(std=0.5), 2, 5),
    "strong blur": (GaussianBlur(std=2.0, cutoff=0.01), 1, 7),
    "even box": (UniformBlur(2), 1, 6),
    "odd box": (UniformBlur(3), 2, 6),
    "wide box": (UniformBlur(4), 1, 8),
    "box wider than the image": (UniformBlur(7), 1, 4),
}


@pytest.fixture(params=FAMILY, ids=lambda name: name)
def case(request):
    return FAMILY[request.param]


def basis(shape):
    return torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)


def matrix(function, shape):
    """Column j is what becomes of the j-th unit vector."""
    return function(basis(shape)).flatten(1).T


def dense(operator, channels, size):
    measured = operator.measured(channels, size)
    return matrix(operator, (channels, size, size)), matrix(operator.pinv, measured)


def test_adjoint_identity(case):
    """⟨A x, y⟩ = ⟨x, Aᵀy⟩."""
    operator, channels, size = case
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, channels, size, size, generator=generator, dtype=torch.float64)
    y = torch.randn(5, *operator.measured(channels, size), generator=generator, dtype=torch.float64)
    left, right = (operator(x) * y).flatten(1).sum(1), (x * operator.adjoint(y)).flatten(1).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(matrix(operator.adjoint, y.shape[1:]), matrix(operator, x.shape[1:]).T)


def test_the_four_identities_of_moore_and_penrose(case):
    a, plus = dense(*case)
    exact = {"rtol": 0, "atol": 1e-10}
    torch.testing.assert_close(a @ plus @ a, a, **exact)
    torch.testing.assert_close(plus @ a @ plus, plus, **exact)
    torch.testing.assert_close((a @ plus).T, a @ plus, **exact)
    torch.testing.assert_close((plus @ a).T, plus @ a, **exact)
    torch.testing.assert_close(plus, torch.linalg.pinv(a, rtol=1e-6), rtol=0, atol=1e-9)


def test_amplification_is_the_largest_singular_value(case):
    operator, _, size = case
    _, plus = dense(*case)
    assert operator.amplification(size) == pytest.approx(float(torch.linalg.matrix_norm(plus, 2)))


def test_null_space_and_its_complement(case):
    operator, channels, size = case
    a, plus = dense(*case)
    shape = (channels, size, size)
    torch.testing.assert_close(matrix(operator.null, shape), torch.eye(len(plus)).double() - plus @ a)
    torch.testing.assert_close(matrix(Projection(operator), shape), plus @ a)
    torch.testing.assert_close(a @ matrix(operator.null, shape), torch.zeros_like(a), rtol=0, atol=1e-10)


def test_precision_is_that_of_the_image(case):
    operator, channels, size = case
    for dtype in (torch.float32, torch.float64):
        x = torch.zeros(1, channels, size, size, dtype=dtype)
        assert {operator(x).dtype, operator.pinv(operator(x)).dtype, operator.adjoint(operator(x)).dtype} == {dtype}


def test_a_grey_image_stays_grey_under_the_mean():
    y = torch.rand(2, 1, 4, 4)
    torch.testing.assert_close(Grayscale().pinv(y), y.expand(-1, 3, -1, -1))


def test_block_means_by_hand():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert Downsample(2)(x).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert Downsample(2).pinv(torch.tensor([[[[7.0]]]])).tolist() == [[[[7.0, 7.0], [7.0, 7.0]]]]


def test_blur_is_circular_convolution():
    """Of a point: the kernel around it, and over the edge; the cut takes less than `cutoff` away."""
    point = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    point[0, 0, 0, 0] = 1
    operator = GaussianBlur(std=0.6, cutoff=1e-6)
    taps, middle = operator.taps()
    line = torch.zeros(8, dtype=torch.float64)
    for at, tap in enumerate(taps):
        line[(at - middle) % 8] += tap
    torch.testing.assert_close(operator(point)[0, 0], line[:, None] * line, rtol=0, atol=1e-12)
    cut = GaussianBlur(std=0.6, cutoff=0.2)(point)
    assert 0 < float((cut[0, 0] - line[:, None] * line).norm()) < 0.2
    assert float(operator(point).sum()) == pytest.approx(1), "brightness is kept"
    box = UniformBlur(2, cutoff=1e-6)(point)[0, 0]
    assert (box > 0.1).nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_the_cut_bounds_the_amplification():
    assert GaussianBlur(std=2.0, cutoff=1e-4).amplification(16) > 1000
    assert GaussianBlur(std=2.0, cutoff=0.1).amplification(16) <= 10


def test_masking_hides():
    x = torch.ones(1, 1, 4, 4)
    assert Masking(Half("top"))(x)[0, 0].tolist() == [[0] * 4] * 2 + [[1] * 4] * 2


def test_noise_is_of_its_size_and_seeded():
    x = torch.zeros(1, 1, 100, 100)
    y = Downsample(2, noise=0.5).degraded(x, torch.Generator().manual_seed(0))
    assert float(y.std()) == pytest.approx(0.5, rel=0.05)
    assert torch.equal(y, Downsample(2, noise=0.5).degraded(x, torch.Generator().manual_seed(0)))
    assert torch.equal(Downsample(2).degraded(x), torch.zeros(1, 1, 50, 50))


def test_alternating_projections_end_in_both_sets():
    """In [-1, 1] and with A x = y, though neither A⁺y + (I − A⁺A) x nor its clamp is in both."""
    generator = torch.Generator().manual_seed(0)
    for operator in (Downsample(4), GaussianBlur(), Masking(Half()), Grayscale()):
        truth = (2 * torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)).clamp(-1, 1)
        y = operator(truth)
        x = 2 * torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)
        made = consistent(x, y, operator, rounds=2000)
        assert float(made.abs().max()) <= 1
        assert float((operator(made) - y).abs().max()) < 1e-2, operator
        once = (operator.pinv(y) + operator.null(x)).clamp(-1, 1)
        assert torch.equal(consistent(x, y, operator, rounds=1), once)
        torch.testing.assert_close(consistent(truth, y, operator), truth)


def test_names():
    assert list(OPERATORS) == ["sr4", "sr8", "color", "blur", "denoise", "inpaint"]
    assert OPERATORS["sr8"] == Downsample(8)


@pytest.mark.parametrize(
    ("operator", "channels", "size", "told"),
    [
        (Grayscale(), 1, 8, "color needs images of 3 channels"),
        (Downsample(8), 3, 12, "sr8 needs images whose side is a multiple of 8"),
    ],
)
def test_images_that_cannot_be_degraded(operator, channels, size, told):
    with pytest.raises(UserError, match=told):
        operator.check(channels, size)
    Identity().check(channels, size)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Downsample(1), "factor is 1"),
        (lambda: Grayscale((0.0, 0.0, 0.0)), "weights are"),
        (lambda: GaussianBlur(std=0.0), "std is 0.0"),
        (lambda: GaussianBlur(cutoff=1.0), "cutoff is 1.0"),
        (lambda: UniformBlur(0), "width is 0"),
        (lambda: Identity(noise=-1.0), "noise is -1.0"),
        (lambda: Masking(Half(), noise=math.nan), "noise is nan"),
    ],
)
def test_operators_that_cannot_be(make, told):
    with pytest.raises(UserError, match=told):
        make()
