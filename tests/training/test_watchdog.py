"""Runs that fail on purpose: the watchdog's events, and the files that remain."""

import json

import pytest
import torch
import yaml

from ebmzoo.commands.cli import main
from ebmzoo.errors import UserError
from ebmzoo.sampling.langevin import ChainDivergedError, Langevin
from ebmzoo.training.checkpoint import LastCheckpoint, read
from ebmzoo.training.watchdog import DivergedError, Watchdog, read_events
from support.command_line import small
from support.family import FAMILY
from support.poison import Poison
from support.tiny import TinyData, coopnets, trainer, vae, without_latent


def watch(**changes):
    return Watchdog(**{"every_n_steps": 1, "patience": 3} | changes)


def test_a_nan_batch_ends_the_run_and_the_last_checkpoint_is_from_before(tmp_path):
    keep = LastCheckpoint(tmp_path, "model: null", every_n_steps=2)
    callbacks = [Poison(at=5), watch(), keep]
    run = trainer(tmp_path, max_steps=8, max_epochs=-1, callbacks=callbacks, enable_checkpointing=True)
    with pytest.raises(DivergedError, match=r"iteration 6: .*not finite") as stopped:
        run.fit(vae(), TinyData())
    assert (stopped.value.event.step, stopped.value.event.event) == (6, "non_finite")
    made = read(tmp_path / "last.ckpt")
    assert made["global_step"] == 4
    assert all(v.isfinite().all() for v in made["state_dict"].values() if v.is_floating_point())


@pytest.mark.parametrize("name", FAMILY)
def test_every_method_reports_a_nan_batch_at_once(name, tmp_path):
    """A logged value or the chain itself reveals it; the remaining checkpoint is from before."""
    keep = LastCheckpoint(tmp_path, "model: null", every_n_steps=1)
    callbacks = [Poison(at=2), watch(), keep]
    run = trainer(tmp_path, max_steps=6, max_epochs=-1, callbacks=callbacks, enable_checkpointing=True)
    with pytest.raises((DivergedError, ChainDivergedError), match=r"finite|NaN"):
        run.fit(FAMILY[name](), TinyData())
    assert run.global_step <= 3
    assert read(tmp_path / "last.ckpt")["global_step"] == 2


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    """The logged values are checked too rarely to see it; every checkpoint is checked."""
    callbacks = [Poison(at=1), watch(every_n_steps=100), LastCheckpoint(tmp_path, "model: null", every_n_steps=3)]
    run = trainer(tmp_path, max_steps=8, max_epochs=-1, callbacks=callbacks, enable_checkpointing=True)
    with pytest.raises(DivergedError, match="holds NaN or infinity"):
        run.fit(vae(), TinyData())
    assert not (tmp_path / "last.ckpt").exists()


def test_exploding_energies_end_the_run(tmp_path):
    with pytest.raises(DivergedError, match=r"iteration 1: train/energy_\w+ is .*, beyond 1e-09"):
        trainer(tmp_path, max_epochs=5, callbacks=[watch(energy_limit=1e-9)]).fit(coopnets(), TinyData())


@pytest.mark.parametrize("sampler", [Langevin(4, 0.0, 0.01), Langevin(4, 0.0, 0.0)], ids=["noise", "no noise"])
def test_a_dead_energy_is_reported_once(tmp_path, capsys, sampler):
    # with a step size of zero the energy has no effect on the chain
    trainer(tmp_path, max_epochs=2, callbacks=[watch(dead_ratio=1.1)]).fit(without_latent(sampler=sampler), TinyData())
    output = capsys.readouterr().err
    assert "iteration 3: the energy is dead" in output
    assert output.count("is dead") == 1
    (event,) = read_events(tmp_path)
    assert (event.step, event.event) == (3, "dead_energy")


def test_a_dead_energy_ends_the_run_if_configured(tmp_path):
    dead = without_latent(sampler=Langevin(4, 0.0, 0.01))
    callbacks = [watch(dead_ratio=1.1, stops=("dead_energy",))]
    with pytest.raises(DivergedError, match="iteration 3: the energy is dead"):
        trainer(tmp_path, max_epochs=2, callbacks=callbacks).fit(dead, TinyData())


def test_a_live_run_is_left_alone(tmp_path, capsys):
    alive = without_latent(sampler=Langevin(4, 100.0, 1e-4))
    trainer(tmp_path, max_epochs=2, callbacks=[watch()]).fit(alive, TinyData())
    assert "iteration" not in capsys.readouterr().err
    assert read_events(tmp_path) == []


def test_a_collapsed_generator_is_reported(tmp_path, capsys):
    still = {"generator_optimizer": lambda p: torch.optim.SGD(p, lr=0.0)}
    method = coopnets(**still)
    with torch.no_grad():
        for parameter in method.generator.parameters():
            parameter.zero_()
    method.use_averages = False
    trainer(tmp_path, max_epochs=10, callbacks=[watch()]).fit(method, TinyData())
    assert "the generator has collapsed" in capsys.readouterr().err
    assert [event.event for event in read_events(tmp_path) if event.event == "collapsed_generator"]


def test_watching_does_not_change_training(tmp_path):
    states = []
    for callbacks in ([], [watch()]):
        torch.manual_seed(0)
        method = coopnets()
        torch.manual_seed(1)
        trainer(tmp_path, max_epochs=3, callbacks=callbacks).fit(method, TinyData())
        states.append(method.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_numbers_out_of_range():
    for wrong in ({"retries": -1}, {"patience": 0}, {"every_n_steps": 0}, {"energy_limit": 0.0}, {"collapse": -1.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            Watchdog(**wrong)


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """A digits config that gives NaN at iteration 7 with seed 0, and not with another seed."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    poison = [{"class_path": "test_watchdog.PoisonSeed", "init_args": {"at": 7}}]
    config = yaml.safe_load(small(tmp_path).read_text())
    config["trainer"]["callbacks"] = poison
    config["checkpoint_every"] = 3
    config["grid_every"] = 0
    config["watchdog"] = {"every_n_steps": 1}
    path = tmp_path / "failing.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


class PoisonSeed(Poison):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if torch.initial_seed() == 0:
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)


def test_a_diverged_run_ends_with_a_sentence_and_an_event(failing, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(failing)])
    assert stopped.value.code == 2
    output = capsys.readouterr().err
    assert "ebmzoo: iteration" in output
    assert read(tmp_path / "run" / "last.ckpt")["global_step"] == 6
    (event,) = read_events(tmp_path / "run")
    assert event.event == "non_finite"
    assert not json.loads((tmp_path / "run" / "training.json").read_text())["finished"]


def test_a_diverged_run_goes_back_with_another_seed_and_a_smaller_step(failing, tmp_path, capsys):
    changes = '{"model.sampler.step_size": 0.5, "model.sampler.steps": 2}'
    main(["fit", "--config", str(failing), "--watchdog.retries", "2", "--watchdog.changes", changes])
    made = read(tmp_path / "run" / "last.ckpt")
    assert made["global_step"] == 12, "it went on to the end of the run"
    config = yaml.safe_load(made["ebmzoo"]["config"])
    assert config["seed_everything"] == 1
    assert config["model"]["init_args"]["sampler"]["step_size"] == 0.5
    assert config["model"]["init_args"]["sampler"]["steps"] == 4
    (event,) = read_events(tmp_path / "run")
    assert "Going back to" in event.message
    assert "model.sampler.step_size 0.5" in event.message
    main(["test", "--ckpt_path", str(tmp_path / "run" / "last.ckpt"), "--tasks", "ood", "--trust", "true"])
    assert "! training: iteration" in capsys.readouterr().out


def test_a_rollback_trains_on_with_the_rates_that_it_records(failing, tmp_path, capsys):
    """From a checkpoint: the weights are those of a run that resumes with the smaller rates by its config."""
    keys = ("model.energy_optimizer.lr", "model.generator_optimizer.lr")
    changes = json.dumps(dict.fromkeys(keys, 0.1))
    main(["fit", "--config", str(failing), "--watchdog.retries", "2", "--watchdog.changes", changes])
    made = read(tmp_path / "run" / "last.ckpt")
    model = yaml.safe_load(made["ebmzoo"]["config"])["model"]["init_args"]
    rates = [model[key.split(".")[1]]["init_args"]["lr"] for key in keys]
    names = ("energy_net", "generator")
    states = dict(zip(made["ebmzoo"]["optimizers"], made["optimizer_states"], strict=True))
    assert [states[name]["param_groups"][0]["lr"] for name in names] == rates
    before = yaml.safe_load(failing.read_text())["model"]["init_args"]
    assert rates == pytest.approx([0.1 * before[key.split(".")[1]]["init_args"]["lr"] for key in keys])
    told = capsys.readouterr().err
    (event,) = read_events(tmp_path / "run")
    for key, rate in zip(keys, rates, strict=True):
        assert f"{key} {rate}" in event.message
        assert f"→ {rate}" in told
    assert "apply from iteration 6 on" in told


def test_changes_of_missing_keys(failing, capsys):
    with pytest.raises(SystemExit):
        main(
            ["fit", "--config", str(failing), "--watchdog.retries", "1", "--watchdog.changes", '{"model.no.key": 0.5}']
        )
    assert "watchdog.changes: there is no key 'model.no.key'" in capsys.readouterr().err


def test_a_run_resumed_after_a_rollback_keeps_its_changes_and_count(failing, tmp_path, capsys):
    """With its own config, which has the diverging seed: stopped at 9, and diverging again at 11."""
    config = yaml.safe_load(failing.read_text())
    again = {"class_path": "test_watchdog.Poison", "init_args": {"at": 10}}
    changes = ["--watchdog.retries", "1", "--watchdog.changes", '{"model.sampler.step_size": 0.5}']
    main(["fit", "--config", str(failing), *changes, "--trainer.max_steps", "9"])
    assert read(tmp_path / "run" / "last.ckpt")["global_step"] == 9
    config["trainer"]["callbacks"].append(again)
    failing.write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(failing), *changes, "--resume", "auto"])
    assert stopped.value.code == 2, "the one try was used up before"
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert kept["seed_everything"] == 1
    assert kept["model"]["init_args"]["sampler"]["step_size"] == 0.5
    assert [event.step for event in read_events(tmp_path / "run")] == [8, 11]
