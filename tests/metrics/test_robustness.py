"""Attacks on linear classifiers, whose margins tell exactly what they withstand."""

import pytest
import torch

from ebmzoo.errors import UserError
from ebmzoo.metrics import ProjectedGradientAttack

W = torch.tensor([[3.0, -1.0], [0.5, 2.0]])


def logits(x):
    """Class 0 where w·x > 0: the margin is |w·x|, and a perturbation δ changes it by at most r|w|₁ or r|w|₂."""
    margin = (x * W).flatten(1).sum(1)
    return torch.stack([margin, -margin], dim=1)


def points(margins):
    """Images with these w·x, far from -1 and 1."""
    return torch.tensor(margins)[:, None, None, None] * W / W.square().sum()


@pytest.mark.parametrize(("norm", "steps"), [("linf", 1), ("linf", 20), ("l2", 20)])
def test_an_image_withstands_exactly_what_its_margin_says(norm, steps):
    radius = 0.1
    reach = radius * float(W.abs().sum() if norm == "linf" else W.norm())
    margins = [s * reach * (1 + e) for s in (1, -1) for e in (0.01, -0.01, 0.5, -0.9)]
    x, labels = points(margins), (torch.tensor(margins) < 0).long()
    withstood = ProjectedGradientAttack(norm, radius, steps)(logits, x, labels, torch.Generator().manual_seed(0))
    assert withstood.tolist() == [abs(m) > reach for m in margins]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_perturbations_are_in_the_ball_and_images_in_their_range(norm):
    seen, x = [], torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def watched(state):
        seen.append(state.detach())
        return logits(state)

    ProjectedGradientAttack(norm, 0.3, steps=5)(watched, x, torch.zeros(6, dtype=torch.int64))
    assert len(seen) == 1 + 5 + 1
    assert torch.equal(seen[0], x)
    sizes = [(s - x).abs().amax((1, 2, 3)) if norm == "linf" else (s - x).flatten(1).norm(dim=1) for s in seen[1:]]
    assert float(torch.stack(sizes).max()) <= 0.3 + 1e-6
    assert all(float(state.abs().max()) <= 1 for state in seen)
    assert len(sizes[0].unique()) == 6, "each image has its own start"


def test_an_image_that_any_state_misleads_is_not_withstood():
    """The class is 1 in a shell that the attack steps into and out of again."""

    def shell(x):
        far = x.abs().amax((1, 2, 3))
        odd = ((far > 0.04) & (far < 0.09)).float()
        slope = x.flatten(1).sum(1)
        return torch.stack([0.5 - odd - slope * 1e-3, odd + slope * 1e-3 - 0.5], dim=1)

    attack = ProjectedGradientAttack("linf", 0.1, steps=10)
    assert not attack(shell, torch.zeros(1, 1, 1, 1), torch.tensor([0]), torch.Generator().manual_seed(0)).any()


def test_an_image_of_another_class_withstands_nothing():
    assert not ProjectedGradientAttack("l2", 1e-3)(logits, points([5.0]), torch.tensor([1])).any()


@pytest.mark.parametrize(
    ("changes", "words"), [({"radius": 0}, "radius"), ({"steps": 0}, "steps"), ({"norm": "l1"}, "norm")]
)
def test_impossible_attacks_are_refused(changes, words):
    with pytest.raises(UserError, match=f"attack.{words}"):
        ProjectedGradientAttack(**{"norm": "l2", "radius": 1.0} | changes)
