"""The training bar: one for the whole run, without a flicker of its description, with sentences about the chains."""

import doctest

import pytest

from ebmzoo.training import progress_bar
from ebmzoo.training.progress_bar import ProgressBar, health, iterations
from support.tiny import TinyData, trainer, without_latent


class Watched(ProgressBar):
    """Keeps what the bar says, and where it stands, after every change."""

    def __init__(self):
        super().__init__()
        self.said, self.stood = [], []

    def init_train_tqdm(self):
        bar, describe = super().init_train_tqdm(), None
        describe = bar.set_description
        bar.set_description = lambda text, refresh=True: (self.said.append(text), describe(text, refresh))
        return bar

    def on_train_batch_end(self, *args):
        super().on_train_batch_end(*args)
        self.stood.append((self.train_progress_bar.n, self.train_progress_bar.total))


@pytest.mark.parametrize("limit", [{"max_epochs": 3}, {"max_steps": 12, "max_epochs": -1}])
def test_one_bar_goes_through_all_epochs(tmp_path, limit):
    bar = Watched()
    fit = trainer(tmp_path, callbacks=[bar], enable_progress_bar=True, **limit)
    fit.fit(without_latent(), TinyData(n=64, batch_size=16))
    assert bar.stood == [(k, 12) for k in range(1, 13)]
    assert set(bar.said) == {without_latent().phase}


def test_sentences_come_after_parts_of_the_run_and_once_each(tmp_path, capsys):
    fit = trainer(tmp_path, callbacks=[ProgressBar()], enable_progress_bar=True, max_epochs=5)
    fit.fit(without_latent(), TinyData(n=64, batch_size=16))
    text = capsys.readouterr().out
    assert [k for k in range(1, 21) if f"iteration {k}: the chain moves" in text] == [1, 5, 10, 15]


def test_health_is_said_of_chains_with_noise_alone():
    assert health({"loss": 1.0}) is None
    assert health({"displacement_ratio": float("inf")}) is None
    assert health({"displacement_ratio": 2.0, "energy_gap": float("nan")}).endswith("does not yet move it")
    assert health({"displacement_ratio": 2.0, "energy_gap": -0.5}).endswith("-0.5: healthy")


def test_a_run_without_an_end_has_no_total(tmp_path):
    fit = trainer(tmp_path, max_epochs=-1, max_steps=-1)
    assert iterations(fit) == float("inf")


def test_examples():
    assert doctest.testmod(progress_bar).failed == 0
