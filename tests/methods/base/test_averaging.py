"""The averages' recursion with a warm-up: min(decay, (1 + n)/(10 + n)) at update n = 1, 2, …"""

import pytest
import torch
from torch import nn

from ebmzoo.methods.base.averaging import averaged


def followed(average, values):
    """The average's weight after each of the `values` of the network's."""
    net, found = nn.Linear(1, 1, bias=False), []
    for value in values:
        nn.init.constant_(net.weight, value)
        average.update_parameters(net)
        found.append(float(average.module.weight))
    return found


def start(decay, **settings):
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    return averaged(decay, net=net, **settings)["net"]


@pytest.mark.parametrize("decay", [0.9999, 0.4])
def test_the_decay_warms_up(decay):
    values, want, kept = [3.0, -1.0, 2.0, 5.0, 0.5, 4.0], [], 0.0
    for n, value in enumerate(values, start=1):
        d = min(decay, (1 + n) / (10 + n))
        kept = d * kept + (1 - d) * value
        want.append(kept)
    assert followed(start(decay, warmup=True), values) == pytest.approx(want, rel=1e-5)


def test_initial_weights_are_soon_forgotten():
    """With .995 at 500 updates they still have a share of .995⁵⁰⁰ = 8 %; with the warm-up one of 1e-14."""
    assert followed(start(0.995), [1.0] * 500)[-1] == pytest.approx(1 - 0.995**500, rel=1e-3)
    assert 1 - followed(start(0.995, warmup=True), [1.0] * 500)[-1] < 1e-5


def test_the_warm_up_goes_on_after_loading():
    one, two = start(0.9999, warmup=True), start(0.9999, warmup=True)
    values = [3.0, -1.0, 2.0, 5.0]
    whole = followed(one, values)
    followed(two, values[:2])
    three = start(0.9999, warmup=True)
    three.load_state_dict(two.state_dict())
    assert followed(three, values[2:]) == whole[2:]


@pytest.mark.parametrize(
    ("decay", "settings", "settled"), [(0.9, {}, 1), (0.9, {"start": 7}, 8), (0.9, {"warmup": True}, 80)]
)
def test_settled_is_the_first_update_with_the_whole_decay(decay, settings, settled):
    average = start(decay, **settings)
    assert average.settled == settled
    for updates, whole in ((settled, True), (settled - 1, False)):
        average.updates = updates
        if updates:
            assert (average._decay() == pytest.approx(decay, abs=1e-12)) is whole
    assert torch.equal(average.n_averaged, torch.tensor(1))
