"""What a checkpoint may contain: everything is read through one door, which knows what a run writes."""

import zipfile

import pytest
import torch
import yaml

from ebmzoo import UserError
from ebmzoo.commands.cli import main
from ebmzoo.networks.weights import check_archive, read_weights
from ebmzoo.training.checkpoint import Rollbacks, load, read
from ebmzoo.training.durable import DurableIO
from ebmzoo.training.migration import KEY
from ebmzoo.training.record import TrainingRecord
from ebmzoo.training.schema import value_at
from ebmzoo.training.trust import OF_TRAINER
from support.paths import TESTS

GOOD = TESTS / "data" / "format1.ckpt"


def good():
    return torch.load(GOOD, weights_only=True)


def laughs(levels=9, width=9):
    """A structure of a few objects that has width**levels values."""
    inner = [0] * width
    for _ in range(levels):
        inner = [inner] * width
    return inner


def holding_itself():
    inner = []
    inner.append(inner)
    return inner


def with_top(**changed):
    return {**good(), **changed}


def with_own(**changed):
    checkpoint = good()
    checkpoint[KEY] |= changed
    return checkpoint


def with_config(change):
    checkpoint = good()
    config = yaml.safe_load(checkpoint[KEY]["config"])
    change(config)
    checkpoint[KEY]["config"] = yaml.safe_dump(config)
    return checkpoint


def without(key):
    checkpoint = good()
    del checkpoint[key]
    return checkpoint


RECORD = {"train": {"name": "x", "n": 3, "digest": "ab"}, "test": {"name": "x", "n": 3}}
ODD = {
    "no weights": (lambda: without("state_dict"), "no state_dict"),
    "weights that are a list": (lambda: with_top(state_dict=[torch.zeros(1)]), "state_dict is a list"),
    "a weight that is a number": (lambda: with_top(state_dict={"energy_net.x": 3.0}), "'energy_net.x'"),
    "an iteration that is text": (lambda: with_top(global_step="8"), "global_step is a str"),
    "an iteration below zero": (lambda: with_top(global_step=-1), "global_step is -1"),
    "an epoch that is true": (lambda: with_top(epoch=True), "epoch is a bool"),
    "callbacks that are a list": (lambda: with_top(callbacks=[1]), "callbacks is a list"),
    "a callback's number": (lambda: with_top(callbacks={"TrainingRecord": 3}), "TrainingRecord"),
    "optimizers that are numbers": (lambda: with_top(optimizer_states=[1]), "optimizer_states"),
    "a path that goes back up": (
        lambda: with_top(callbacks={"ModelCheckpoint{}": {"best_model_path": "run/checkpoints/../../victim"}}),
        "run/checkpoints/../../victim",
    ),
    "the same, deeper": (
        lambda: with_top(callbacks={"ModelCheckpoint{}": {"best_k_models": {"/run/../victim": torch.tensor(1.0)}}}),
        "/run/../victim",
    ),
    "random states of another kind": (lambda: with_own(random=[{"cpu": 3, "cuda": []}]), "random"),
    "buffers of another kind": (lambda: with_own(buffers=[{"x": 3}]), "buffers"),
    "classes that are numbers": (lambda: with_own(data={"classes": [1, 2]}), "data.classes"),
    "half a record of the data": (lambda: with_own(data={"record": RECORD}), "data.record"),
    "a config that is a list": (lambda: with_own(config="- 1"), "its config is a list"),
    "a config with a key of a command": (lambda: with_config(lambda c: c.update(overwrite=True)), "'overwrite'"),
    "a trainer in a file": (lambda: with_config(lambda c: c.update(trainer="x.yaml")), "'x.yaml' at trainer"),
    "a config that holds itself": (lambda: with_own(config="model: &a {x: *a}"), "contains itself"),
    "aliases without end": (
        lambda: with_own(
            config="a0: &a0 [1]\n" + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))
        ),
        "values",
    ),
    "a config of many MiB": (lambda: with_own(config="#" * 2**21), "2,097,152 characters"),
    "a view that repeats one number": (
        lambda: with_top(state_dict={"x": torch.zeros(1).expand(10**6, 10**6)}),
        "(1000000, 1000000)",
    ),
    "a sparse tensor": (
        lambda: with_top(optimizer_states=[{"x": torch.sparse_coo_tensor(size=(10**6, 10**6))}]),
        "(1000000, 1000000)",
    ),
    "lists in lists in lists": (lambda: with_top(loops={"x": laughs()}), "values"),
    "a list that holds itself": (lambda: with_top(lr_schedulers=[{"x": holding_itself()}]), "contains itself"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_no_run_writes_is_named(case, tmp_path):
    build, words = ODD[case]
    torch.save(build(), tmp_path / "x.ckpt")
    with pytest.raises(UserError) as caught:
        read(tmp_path / "x.ckpt")
    assert "x.ckpt" in str(caught.value)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400
    with pytest.raises(UserError):  # Lightning's own reading of a checkpoint passes the same door
        DurableIO().load_checkpoint(tmp_path / "x.ckpt")


def test_what_runs_write_passes():
    for path in TESTS.glob("data/*.ckpt"):
        assert read(path)["state_dict"]
        load(path)


@pytest.mark.parametrize("command", ["fit", "test", "sample"])
def test_commands_say_it_in_one_sentence(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(with_top(state_dict=[1]) if command == "sample" else without("global_step"), "x.ckpt")
    with pytest.raises(SystemExit) as stopped:
        main([command, "--ckpt_path", "x.ckpt"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.ckpt"]


def test_a_compressed_file_of_weights_is_not_unpacked(tmp_path):
    """torch inflates what it is given; a few KiB could be any number of GiB."""
    torch.save(good(), tmp_path / "x.ckpt")
    with zipfile.ZipFile(tmp_path / "x.ckpt") as stored, zipfile.ZipFile(tmp_path / "y.ckpt", "w") as bomb:
        for member in stored.infolist():
            padding = bytes(2**24) if member.filename.endswith("data.pkl") else b""
            bomb.writestr(member.filename, stored.read(member) + padding, zipfile.ZIP_DEFLATED)
    check_archive(tmp_path / "x.ckpt")
    for attempt in (read_weights, read, DurableIO().load_checkpoint):
        with pytest.raises(UserError, match=r"y\.ckpt is refused: it unpacks from"):
            attempt(tmp_path / "y.ckpt")


def test_rollbacks_change_only_numbers_of_the_checkpoints_own_config():
    def told(changed, tries=1):
        with pytest.raises(UserError, match=r"^ckpt_path: the checkpoint") as caught:
            Rollbacks.of(with_own(rollbacks={"tries": tries, "changed": changed}))
        return str(caught.value)

    for key in ("trust", "run_dir", "config", "ckpt_path", "overwrite", "model.class_path", "model.nowhere", "trainer"):
        assert f"'{key}', which is no number of its config" in told({key: 1})
    for value in (float("nan"), float("inf"), True, "1", [1], {"class_path": "os.system"}):
        assert "'seed_everything'" in told({"seed_everything": value})
    assert "which is no mapping of keys" in told([("seed_everything", 1)])
    assert "True rollbacks" in told({}, tries=True)
    optimizer = "model.energy_optimizer.lr"
    found = Rollbacks.of(with_own(rollbacks={"tries": 1, "changed": {"seed_everything": 4, optimizer: 5e-5}}))
    assert found.flags == ["--seed_everything=4", f"--{optimizer}=5e-05"]


def test_a_value_is_found_below_the_arguments_of_classes():
    config = {"model": {"class_path": "X", "init_args": {"net": {"class_path": "Y", "init_args": {"width": 8}}}}}
    assert value_at(config, "model.net.width") == 8
    assert value_at(config, "model.init_args.net.init_args.width") == 8
    for key in ("model.width", "width", "model.net.width.more", ""):
        assert value_at(config, key) is None


def test_the_record_of_costs_takes_only_its_counts(tmp_path):
    """Not its path, by which a file elsewhere would be written."""
    record = TrainingRecord(tmp_path)
    record.load_state_dict({"iterations": 8, "images": 80, "seconds": 1.5, "path": "/elsewhere", "_write": 3})
    assert (record.iterations, record.images, record.seconds, record.path) == (8, 80, 1.5, tmp_path / "training.json")
    record.load_state_dict({"iterations": "many", "images": -3, "seconds": None})
    assert (record.iterations, record.images, record.seconds) == (8, 80, 1.5)


def test_a_checkpoint_sets_no_key_of_the_trainer_that_could_write_elsewhere():
    harmless = yaml.safe_load(good()[KEY]["config"])["trainer"]
    assert OF_TRAINER.keys() <= harmless.keys(), "a key that Lightning's trainer has no longer"
