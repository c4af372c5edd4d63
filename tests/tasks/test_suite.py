"""The choice of tasks for a test, its budget and seeds, and results that need not be computed again."""

import json
import math

import pytest
import torch

from ebmzoo.commands.cli import main
from ebmzoo.errors import UserError
from ebmzoo.metrics import Pixels
from ebmzoo.report.scorecard import scorecard
from ebmzoo.tasks import Cost, Generation, OutOfDistributionDetection, Result, Stages, Task
from ebmzoo.tasks.base import average_results, is_up_to_date
from ebmzoo.tasks.budget import BUDGETS, Budget
from ebmzoo.tasks.suite import suite
from support.command_line import small
from support.tiny import (
    TinyData,
    cdrl,
    denoising_ebm,
    drl,
    dual_mcmc,
    hat_ebm,
    liebm,
    mdsm,
    score_network,
    trainer,
    triangle,
    vae,
)

STANDARD = BUDGETS["standard"]


class Draws(Task):
    """A task with a random number as its figure, which counts its calls."""

    name = "draws"

    def __init__(self, n=100):
        self.n = n
        self._calls = []

    def apply_budget(self, budget):
        self.n = budget.samples_of(self.n)

    def __call__(self, method, data, folder=None):
        self._calls.append(folder)
        if len(self._calls) == self._breaks:
            raise KeyboardInterrupt
        return Result(self.name, {"number": float(torch.rand(()))}, {"n": self.n})

    _breaks = -1


def names(tasks):
    return [task.name for task in tasks]


def test_a_test_runs_all_tasks_that_a_method_supports():
    data = TinyData()
    tasks = names(suite([], dual_mcmc(), data, STANDARD))
    assert {"generation", "ood", "reconstruction", "interpolation", "revision"} <= set(tasks)
    assert not {"density", "stages", "denoising", "inpainting"} & set(tasks)
    assert {"inpainting"} <= set(names(suite([], cdrl(), data, STANDARD)))
    assert "revision" in names(suite([], vae(), data, STANDARD)), "its latents can be revised"


@pytest.mark.parametrize(
    "made", [vae, triangle, hat_ebm, drl, mdsm, score_network, denoising_ebm], ids=lambda m: m.__name__
)
def test_cost_runs_only_for_samplers_with_steps(made):
    method, data = made(), TinyData()
    cost = Cost(steps=(2, 1), timed=2, repeats=1)
    assert cost.fits(method, data) == (made not in (vae, triangle))
    if cost.fits(method, data):
        assert cost(method, data).figures["steps_1/nfe"] > 0


def test_configured_tasks_come_first_with_their_settings_and_share_their_extractors():
    named = [OutOfDistributionDetection(n=7), Generation([], n=33)]
    tasks = suite(named, liebm(), TinyData(), STANDARD)
    assert tasks[:2] == named
    assert len(set(names(tasks))) == len(tasks)
    revision = next(task for task in tasks if task.name == "revision")
    assert revision.extractors == []


def test_selected_tasks_and_mistakes_in_their_names():
    data, method = TinyData(), liebm()
    assert names(suite([], method, data, STANDARD, ["ood", "generation"])) == ["generation", "ood"]
    with pytest.raises(UserError, match="there is no task 'generatoin'; did you mean 'generation'"):
        suite([], method, data, STANDARD, ["generatoin"])
    with pytest.raises(UserError, match="stages cannot be run for LIEBM on TinyData"):
        suite([], method, data, STANDARD, ["stages"])
    with pytest.raises(UserError, match="compositional has settings without defaults"):
        suite([], method, data, STANDARD, ["compositional"])


def test_only_configured_tasks():
    named = [OutOfDistributionDetection(n=7), Stages()]
    assert names(suite(named, liebm(), TinyData(), STANDARD, ["config"])) == ["ood"], "stages cannot be run for it"


def test_budgets_set_counts_and_seeds():
    for name, (n, seeds) in {"quick": (250, 1), "standard": (1000, 1), "paper": (50_000, 3)}.items():
        (generation,) = suite([Generation([Pixels()])], liebm(), TinyData(), BUDGETS[name], ["generation"])
        assert (generation.n, generation.seeds) == (n, seeds)
    assert Budget("b", share=0.25).share_of(100) == 25
    assert Budget("b", share=0.25).share_of(4) == 2
    assert Budget("b").share_of(4) == 4


@pytest.fixture
def run(tmp_path):
    """Runs a task under a trainer with a checkpoint."""
    method, data = vae(), TinyData()
    fitted = trainer(tmp_path, max_steps=1)
    fitted.fit(method, data)
    fitted.save_checkpoint(tmp_path / "last.ckpt")

    def evaluate(task, seed=0):
        torch.manual_seed(seed)
        tester = trainer(tmp_path, callbacks=[task])
        tester.test(method, data, ckpt_path=tmp_path / "last.ckpt", verbose=False, weights_only=True)
        return json.loads((tmp_path / "test" / "draws.json").read_text())

    return evaluate


def test_figures_of_several_seeds_are_means_with_their_spread(run, tmp_path):
    alone = [run(Draws(), seed)["figures"]["number"] for seed in (5, 6, 7)]
    task = Draws()
    task.seeds = 3
    stored = run(task, seed=5)
    assert stored["figures"]["number"] == pytest.approx(sum(alone) / 3)
    variance = sum((x - sum(alone) / 3) ** 2 for x in alone) / 2
    assert stored["spread"]["number"] == pytest.approx(math.sqrt(variance))
    assert (stored["protocol"]["seed"], stored["protocol"]["seeds"]) == (5, 3)
    assert task._calls == [tmp_path / "test", None, None], "pictures are drawn for the first seed"
    card = scorecard(tmp_path / "test", ["draws"])
    assert " ± " in card
    assert "mean ± standard deviation of 3 seeds" in card


def test_an_up_to_date_result_is_kept_unless_something_changed(run, capsys):
    run(Draws())
    task = Draws()
    run(task)
    assert task._calls == []
    assert "is up to date" in capsys.readouterr().err
    for changed, seed in ((Draws(n=50), 0), (Draws(n=50), 1)):
        run(changed, seed)
        assert len(changed._calls) == 1
    task = Draws(n=50)
    task.rerun = True
    run(task, seed=1)
    assert len(task._calls) == 1


def test_an_interruption_costs_one_seed(run):
    task = Draws()
    task.seeds, task._breaks = 3, 2
    with pytest.raises(BaseException):  # noqa: B017, PT011  (Lightning turns it into SystemExit)
        run(task)
    again = Draws()
    again.seeds = 3
    run(again)
    assert len(again._calls) == 2, "the first seed's result was kept"


def test_a_result_with_notes_is_computed_again(tmp_path):
    result = Result("draws", {"number": 1.0}, {"checkpoint_sha256": "a"}, notes=["no classifier"])
    result.write(tmp_path)
    assert not is_up_to_date(tmp_path, "draws", {"checkpoint_sha256": "a"})
    result.notes.clear()
    result.write(tmp_path)
    assert is_up_to_date(tmp_path, "draws", {"checkpoint_sha256": "a"})
    assert not is_up_to_date(tmp_path, "draws", {"checkpoint_sha256": "b"})
    (tmp_path / "draws.json").write_text('{"task": "dra')
    assert not is_up_to_date(tmp_path, "draws", {"checkpoint_sha256": "a"})


def test_result_comes_back_as_it_was_written(tmp_path):
    result = Result("t", {"a": 1.5, "b": math.nan}, {"n": 3}, ["p.png"], ["note"], {"c": [1.0]}, {"h": {"in": [1.0]}})
    back = Result.read(result.write(tmp_path))
    assert math.isnan(back.figures.pop("b"))
    result.figures.pop("b")
    assert back == result
    assert average_results([result]) is result


def test_command_line_selects_tasks_by_name(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    main(["fit", "--config", str(small(tmp_path)), "--trainer.max_steps", "1"])
    checkpoint = str(tmp_path / "run" / "last.ckpt")
    main(["test", "--ckpt_path", checkpoint, "--tasks", "generation,ood", "--budget", "quick"])
    assert {p.stem for p in (tmp_path / "run" / "test").glob("*.json")} == {"generation", "ood"}
    assert json.loads((tmp_path / "run" / "test" / "generation.json").read_text())["protocol"]["n"] == 250
    with pytest.raises(SystemExit):
        main(["test", "--ckpt_path", checkpoint, "--tasks=oood"])
    assert "ebmzoo: tasks: there is no task 'oood'; did you mean 'ood'?" in capsys.readouterr().err
