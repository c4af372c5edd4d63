"""Network evaluations of training, counted for the x-axes of curves: exact numbers, and nothing left behind."""

import json

import pytest
import torch

from ebmzoo.methods.baselines import ShortRunEBM
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.training.callbacks import SampleGrid
from ebmzoo.training.evaluations import EvaluationCounter, countable
from ebmzoo.training.record import TrainingRecord
from support import tiny
from support.marginal import short_run
from support.tiny import TinyData, trainer

K = 2
"""Steps of the tiny chains."""


def fitted(method, folder, steps=2, callbacks=(), **options):
    record = TrainingRecord(folder)
    options |= {"max_steps": steps, "max_epochs": -1, "logger": False}
    trainer(folder, callbacks=[record, *callbacks], **options).fit(method, TinyData(n=16))
    return record


@pytest.mark.parametrize(
    ("make", "of_an_image"),
    [
        (short_run, K + 2),  # a chain, and E of data and of its end
        (tiny.mdsm, 1),  # one denoising pass
        (tiny.vae, 2),  # q, and G
        (tiny.without_latent, 1 + K + 2),  # G once for both losses; E of data and end by its `features` alone
        (tiny.jem, K / 2 + 1.5),  # chains for half of a batch, the other half of which is labelled
    ],
)
def test_evaluations_are_those_of_the_algorithm(make, of_an_image, tmp_path):
    record = fitted(make(), tmp_path)
    assert (record.images, record.evaluations) == (16, 16 * of_an_image)
    assert json.loads((tmp_path / "training.json").read_text())["evaluations"] == record.evaluations


def test_the_networks_are_left_without_hooks_also_after_an_error(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("within the iteration")

    method = short_run()
    monkeypatch.setattr(method, "minimize", fails)
    with pytest.raises(RuntimeError, match="within the iteration"):
        fitted(method, tmp_path)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in method.modules())


def test_sample_grids_and_validation_are_no_cost_of_training(tmp_path):
    plain = fitted(short_run(), tmp_path / "plain", limit_val_batches=0)
    watched = fitted(short_run(), tmp_path / "watched", callbacks=[SampleGrid(1, n=4)], val_check_interval=1)
    assert watched.evaluations == plain.evaluations > 0


def test_a_resumed_run_goes_on_counting_unless_its_first_part_was_not_counted(tmp_path):
    first = fitted(short_run(), tmp_path)
    second = TrainingRecord(tmp_path)
    second.load_state_dict(first.state_dict())
    assert second.costs() == first.costs()
    assert set(first.costs()) == {"cost/images", "cost/seconds", "cost/evaluations"}
    old = TrainingRecord(tmp_path)
    old.load_state_dict({key: value for key, value in first.state_dict().items() if key != "evaluations"})
    assert set(old.costs()) == {"cost/images", "cost/seconds"}


def test_compiled_chains_are_not_counted_in_part(tmp_path):
    method = short_run(sampler=Langevin(K, 0.1, 0.01, compile=True))
    assert isinstance(method, ShortRunEBM)
    assert not countable(method)
    assert countable(short_run())
    chains = tiny.drl()
    assert countable(chains)
    record = TrainingRecord(tmp_path)
    record.on_train_start(trainer(tmp_path, logger=False), method)
    assert "cost/evaluations" not in record.costs()


def test_a_network_that_fails_is_counted_once_and_the_next_call_too():
    class Fails(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.part, self.fails = torch.nn.Linear(2, 1), True

        def forward(self, x):
            if self.fails:
                raise ValueError("fails")
            return self.part(x)

    holder, counter = torch.nn.Module(), EvaluationCounter()
    holder.net = Fails()
    counter.start(holder)
    with pytest.raises(ValueError, match="fails"):
        holder.net(torch.zeros(3, 2))
    holder.net.fails = False
    holder.net(torch.zeros(4, 2))
    holder.net.part(torch.zeros(5, 2))
    assert counter.stop() == 12
    holder.net(torch.zeros(4, 2))
    assert counter.stop() == 0
