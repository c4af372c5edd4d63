"""Probes on separable features are exact; neighbours are cosine neighbours, and ties go to the nearest."""

import pytest
import torch
from torch import nn

from ebmzoo.errors import UserError
from ebmzoo.metrics.probe import encode, knn_accuracy, linear_probe


def clusters(n, classes=4, dim=6, spread=0.05, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = torch.eye(dim)[:classes]
    return centres[labels] + spread * torch.randn(n, dim, generator=generator), labels


@pytest.mark.parametrize("probe", [knn_accuracy, linear_probe])
def test_separable_is_perfect_and_false_labels_count(probe):
    train, test = clusters(80), clusters(2500, seed=1)
    assert probe(*train, *test) == 1.0
    wrong = test[1].clone()
    wrong[:500] = (wrong[:500] + 1) % 4
    assert probe(*train, test[0], wrong) == pytest.approx(0.8)


def directions(*degrees):
    angle = torch.tensor(degrees, dtype=torch.float32).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], 1)


def test_neighbours_are_by_cosine():
    train = directions(0.0, 40.0) * torch.tensor([[100.0], [0.01]])
    test = directions(10.0, 30.0)
    assert knn_accuracy(train, torch.tensor([0, 1]), test, torch.tensor([0, 1]), k=1) == 1.0


@pytest.mark.parametrize(
    ("degrees", "labels", "k", "winner"),
    [
        ([1, 2, 3, 4, 5], [0, 1, 1, 0, 2], 5, 0),  # two against two: the nearest decides
        ([1, 2, 3, 4, 5], [2, 1, 1, 0, 0], 5, 1),  # the nearest has but one vote; of the tied, 1 is nearer
        ([1, 2, 3, 4, 5], [2, 1, 0, 0, 1], 5, 1),
        ([1, 2, 3, 4, 5], [2, 0, 1, 1, 1], 5, 1),
        ([1, 2, 3, 4, 5], [2, 0, 1, 1, 1], 2, 2),
    ],
)
def test_majority_then_nearest(degrees, labels, k, winner):
    args = directions(*degrees), torch.tensor(labels), directions(0.0)
    assert [knn_accuracy(*args, torch.tensor([c]), k=k) for c in range(3)] == [float(c == winner) for c in range(3)]


@pytest.mark.parametrize("k", [0, 6])
def test_impossible_k_is_said(k):
    with pytest.raises(UserError, match=f"k is {k}"):
        knn_accuracy(directions(1, 2, 3, 4, 5), torch.zeros(5).long(), directions(0), torch.zeros(1).long(), k=k)


def test_linear_probe_does_not_mind_the_scale_of_a_feature():
    (train, labels), (test, test_labels) = clusters(80), clusters(80, seed=1)
    stretch = torch.tensor([1e4, 1e-4, 1.0, 1.0, 7.0, 0.0])  # the last feature is constant
    assert linear_probe(train * stretch + 3, labels, test * stretch + 3, test_labels) == 1.0


def test_linear_probe_cannot_solve_exclusive_or():
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(5, 1)
    y = torch.tensor([0, 1, 1, 0]).repeat(5)
    assert linear_probe(x, y, x, y, epochs=20) <= 0.75
    assert knn_accuracy(x + 0.01 - 0.5, y, x - 0.5, y, k=5) == 1.0


def test_linear_probe_repeats_itself_and_leaves_the_random_state():
    train, test = clusters(200, spread=0.6), clusters(500, spread=0.6, seed=1)
    first = linear_probe(*train, *test, epochs=5, batch_size=50)
    assert 0.3 < first < 1.0
    state = torch.get_rng_state()
    assert linear_probe(*train, *test, epochs=5, batch_size=50) == first
    assert torch.equal(torch.get_rng_state(), state)


def test_linear_probe_learns_in_inference_mode():
    with torch.inference_mode():
        assert linear_probe(*clusters(80), *clusters(80, seed=1)) == 1.0


def test_encode_is_eval_without_gradient_and_in_order():
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    images = torch.arange(20, dtype=torch.uint8).view(5, 1, 2, 2)
    out = encode(network, images, batch_size=2)
    expected = (images.flatten(1).float() / 127.5 - 1) / (1 + network[1].eps) ** 0.5
    torch.testing.assert_close(out, expected)
    assert network.training
    assert not out.requires_grad
    assert int(network[1].num_batches_tracked) == 0
    torch.testing.assert_close(encode(network, images, read=network[0]), images.flatten(1) / 127.5 - 1)
