"""The cost task: its counts, and the common noise of its rows."""

import json

import pytest
import torch

from ebmzoo.errors import UserError
from ebmzoo.methods import Method, Samples
from ebmzoo.metrics import Pixels
from ebmzoo.tasks import Cost
from support.pictures import rows_and_columns
from support.tiny import TinyData, cdrl


class Fading(Method):
    """A method whose samples are their noise divided by 1 + steps."""

    def trained_networks(self):
        return {}

    def iterate(self, images, labels):
        return {}

    def energy(self, x):
        return x.flatten(1).sum(1)

    def sample(self, n, *, labels=None, steps=None, generator=None):
        noise = torch.randn(n, 1, 8, 8, generator=generator) / 4
        return Samples(noise / (1 + steps), 6 * steps, "noise", 6 * steps, 1.0)


def test_rows_count_their_steps_and_share_their_noise(tmp_path, monkeypatch):
    drawn = []
    sample = Fading.sample

    def spy(self, n, **arguments):
        drawn.append((arguments["steps"], sample(self, n, **arguments)))
        return drawn[-1][1]

    monkeypatch.setattr(Fading, "sample", spy)
    method = Fading()
    torch.manual_seed(0)
    result = Cost(steps=(4, 1), timed=5, repeats=2, n=16, extractors=[Pixels()], batch_size=8)(
        method, TinyData(), tmp_path
    )
    assert result.figures["steps_4/nfe"] == 24
    assert result.figures["steps_1/nfe"] == 6
    assert result.figures["steps_4/seconds"] > 0
    first = {steps: made.images * (1 + steps) for steps, made in reversed(drawn) if len(made.images) == 5}
    torch.testing.assert_close(first[4], first[1])
    assert len(drawn) == 2 * (3 + 2)
    assert result.figures["steps_4/fd_pixels"] != result.figures["steps_1/fd_pixels"]
    assert result.protocol["timed"] == 5
    assert result.pictures == [str(tmp_path / "cost.png")]
    columns = [f"sample {i}" for i in range(1, 9)]
    assert rows_and_columns(result.pictures[0], 2) == (["K = 4", "K = 1"], columns)
    assert json.loads(result.write(tmp_path).read_text())["figures"]["steps_1/nfe"] == 6


def test_without_distances_only_the_clock_runs():
    figures = Cost(steps=(1, 0), timed=2, repeats=1)(cdrl(), TinyData()).figures
    assert {key: value for key, value in figures.items() if "nfe" in key} == {"steps_1/nfe": 13, "steps_0/nfe": 6}
    assert set(figures) == {"steps_1/nfe", "steps_0/nfe", "steps_1/seconds", "steps_0/seconds"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": ()}, "cost.steps"),
        ({"steps": (3, 3)}, "cost.steps"),
        ({"steps": (-1,)}, "cost.steps"),
        ({"timed": 0}, "cost.timed is 0"),
        ({"repeats": 0}, "cost.repeats is 0"),
        ({"n": 1}, "cost.n is 1"),
    ],
)
def test_numbers_out_of_range_are_errors(changes, message):
    with pytest.raises(UserError, match=message):
        Cost(**changes)
