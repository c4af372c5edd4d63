"""Checkpoints that earlier versions wrote can still be loaded, sampled, tested and resumed."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ebmzoo import UserError, load
from ebmzoo.commands.cli import main
from ebmzoo.methods import CDRL
from ebmzoo.methods.baselines import CoopNets, ShortRunEBM
from ebmzoo.training.checkpoint import read
from ebmzoo.training.config_files import read_config
from ebmzoo.training.migration import FORMAT, KEY, MOVED, STEPS, MigratingIO, migrated, moved
from support.paths import CONFIGS, DATA

# CoopNets of width 4 on 80 digits, 2 epochs of 4 batches, written by the code of commit 381821b:
# `ebmzoo fit --config configs/coopnets/digits.yaml --model.energy_net.width 4 --model.generator.width 4
#  --model.generator.latent 4 --model.sampler.steps 2 --data.max_train 80 --data.batch_size 20 --tasks '[]'
#  --data.ood '[]' --trainer.max_epochs 2 --trainer.limit_val_batches 0 --grid_every 0 --trainer.logger false`
FORMAT_1 = DATA / "format1.ckpt"

# CDRL of width 4 with two levels on 80 digits, 2 epochs of 4 batches, written by the code of commit fa46859:
# `ebmzoo fit --config configs/ablations/cdrl_no_cooperative_digits.yaml --run_dir runs/format2
#  --model.energy_net.width 4 --model.energy_net.embedding 4 --model.energy_net.multiples '[1]'
#  --model.schedule.levels 2 --model.chain '{class_path: ebmzoo.methods.RecoveryChain, init_args: {steps: 2}}'
#  --data.max_train 80 --data.batch_size 20 --data.ood '[ebmzoo.data.Interpolation]' --tasks '[{class_path:
#  ebmzoo.tasks.Restoration, init_args: {n: 4, operators: [{class_path: ebmzoo.operators.Downsample, init_args:
#  {factor: 2}}], restoring: {class_path: ebmzoo.methods.Restoring}}}]' --trainer.max_steps -1 --trainer.max_epochs
#  2 --grid_every 0 --trainer.logger false`
FORMAT_2 = DATA / "format2.ckpt"
OLD_PATHS_OF_FORMAT_2 = (
    *("ebmzoo.schedule.CosineSchedule", "ebmzoo.data.Interpolation", "ebmzoo.operators.Downsample"),
)

# A short-run EBM of width 4 on 80 digits, 2 epochs of 4 batches, written by the code of commit d0cfe78:
# `ebmzoo fit --config configs/short_run/digits.yaml --run_dir runs/format3 --model.energy_net.width 4
#  --model.sampler.steps 2 --model.sampler.cuda_graph true --data.max_train 80 --data.batch_size 20 --tasks '[]'
#  --data.ood '[]' --trainer.max_steps -1 --trainer.max_epochs 2 --trainer.limit_val_batches 0 --grid_every 0
#  --trainer.logger false`
FORMAT_3 = DATA / "format3.ckpt"

# Every class that a config could name at commit fa46859, by each of its paths: where it is defined, its package's.
CLASSES = (DATA / "format2_classes.txt").read_text().split()
RENAMED = {
    "Alternation": "LIEBMAlternation",
    "Cooling": "MDSMCooling",
    "Elbo": "LIEBMElbo",
    "Learning": "DenoisingEBMLearning",
    "Restoring": "RestorationSettings",
    "Sampling": "DenoisingEBMSampling",
    "Teaching": "DualMCMCLosses",
}
"""The present names of renamed classes; `Interpolation` of the data, which a task is called too, is not among them."""


@pytest.fixture(autouse=True)
def no_dashboard(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture
def run_dir(tmp_path, request):
    """A run's folder with the checkpoint of an older format that the test names."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "last.ckpt").write_bytes(request.param.read_bytes())
    return folder


def weights(path):
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(("path", "number"), [(FORMAT_1, 1), (FORMAT_2, 2), (FORMAT_3, 3)])
def test_the_file_has_the_format_of_its_name(path, number):
    assert weights(path)[KEY]["format"] == number


def test_there_is_a_file_and_a_step_from_every_format_to_the_newest():
    assert set(STEPS) == set(range(1, FORMAT))
    assert all((DATA / f"format{number}.ckpt").is_file() for number in STEPS)


def test_the_file_of_format_2_names_classes_by_paths_that_are_gone():
    """Or else the tests of its migration would test nothing."""
    config = weights(FORMAT_2)[KEY]["config"]
    assert all(f"class_path: {path}\n" in config for path in OLD_PATHS_OF_FORMAT_2)
    assert not any(exists(path) for path in OLD_PATHS_OF_FORMAT_2)


@pytest.mark.parametrize(("path", "kind"), [(FORMAT_1, CoopNets), (FORMAT_2, CDRL), (FORMAT_3, ShortRunEBM)])
def test_old_checkpoint_is_loaded_to_the_last_weight(path, kind):
    written = weights(path)["state_dict"]
    method = load(path)
    assert type(method) is kind
    loaded = method.state_dict()
    assert loaded.keys() == written.keys()
    assert all(torch.equal(loaded[name], value) for name, value in written.items())


def test_what_format_1_lacks_is_added():
    own = read(FORMAT_1)[KEY]
    assert (own["format"], own["buffers"], own["rollbacks"]) == (FORMAT, [], {})


def test_the_config_of_format_2_names_the_present_classes_and_is_the_same_otherwise():
    before, after = weights(FORMAT_2)[KEY], read(FORMAT_2)[KEY]
    config = before["config"]
    for old, new in {
        "ebmzoo.schedule.CosineSchedule": "ebmzoo.sampling.CosineSchedule",
        "ebmzoo.data.Interpolation": "ebmzoo.data.InterpolatedImages",
        "ebmzoo.operators.Downsample": "ebmzoo.data.degradations.Downsample",
    }.items():
        config = config.replace(old, new)
    assert after["config"].replace("    ema_warmup: false\n", "", 1) == config
    averages = yaml.safe_load(after["config"])["model"]["init_args"]["ema_warmup"]
    assert averages is False, "the averages of then had no warm-up"
    assert {**after, "config": None, "format": None}.keys() == before.keys()


def test_the_config_of_format_3_is_the_same_without_cuda_graph():
    before, after = weights(FORMAT_3)[KEY], read(FORMAT_3)[KEY]
    assert before["config"].count("\n      cuda_graph: true\n") == 1
    assert after["config"] == before["config"].replace("      cuda_graph: true\n", "")


@pytest.mark.parametrize("path", [FORMAT_1, FORMAT_2, FORMAT_3])
def test_old_checkpoint_is_sampled(path, tmp_path):
    main(["sample", "--ckpt_path", str(path), "--n", "3", "--out", str(tmp_path / "x.npz"), "--device", "cpu"])
    images = np.load(tmp_path / "x.npz")["images"]
    assert images.shape == (3, 8, 8, 1)
    assert images.std() > 0


@pytest.mark.parametrize("run_dir", [FORMAT_1], indirect=True)
def test_format_1_is_resumed(run_dir):
    """Its 8 iterations count: the averages and the optimizers' steps continue from them."""
    main(["fit", "--ckpt_path", str(run_dir / "last.ckpt"), "--trainer.max_epochs", "3"])
    resumed = weights(run_dir / "last.ckpt")
    assert resumed[KEY]["format"] == FORMAT
    assert resumed["global_step"] == 12
    assert resumed["state_dict"]["averages.generator.n_averaged"] == 13  # the first one is of the initial weights
    steps = [state["step"] for optimizer in resumed["optimizer_states"] for state in optimizer["state"].values()]
    assert steps
    assert all(step == 12 for step in steps)


@pytest.mark.parametrize("run_dir", [FORMAT_2], indirect=True)
def test_format_2_is_resumed_as_the_run_that_it_was(run_dir, tmp_path):
    """12 iterations of the migrated config from its seed end where 8 of then and 4 of now do, up to rounding."""
    config = yaml.safe_load(read(FORMAT_2)[KEY]["config"]) | {"run_dir": str(tmp_path / "whole")}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--ckpt_path", str(run_dir / "last.ckpt"), "--trainer.max_epochs", "3"])
    main(["fit", "--config", str(tmp_path / "config.yaml"), "--trainer.max_epochs", "3"])
    start, resumed, whole = (weights(p) for p in (FORMAT_2, run_dir / "last.ckpt", tmp_path / "whole" / "last.ckpt"))
    assert resumed[KEY]["format"] == FORMAT
    assert resumed["global_step"] == whole["global_step"] == 12
    assert resumed["state_dict"].keys() == whole["state_dict"].keys()
    for name, value in whole["state_dict"].items():
        torch.testing.assert_close(resumed["state_dict"][name], value, rtol=1e-3, atol=1e-5, msg=name)
    name = "energy_net.tower.embed.second.bias"
    difference = (resumed["state_dict"][name] - start["state_dict"][name]).abs().max()
    assert difference > 1e-4  # the four iterations are no rounding


@pytest.mark.parametrize("run_dir", [FORMAT_3], indirect=True)
def test_format_3_is_resumed(run_dir):
    main(["fit", "--ckpt_path", str(run_dir / "last.ckpt"), "--trainer.max_epochs", "3"])
    resumed = weights(run_dir / "last.ckpt")
    assert (resumed[KEY]["format"], resumed["global_step"]) == (FORMAT, 12)


def exists(path):
    module, _, name = path.rpartition(".")
    try:
        return hasattr(import_module(module), name)
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("path", CLASSES)
def test_every_class_path_of_format_2_is_a_class_of_now(path):
    present = moved(path)
    module, _, name = present.rpartition(".")
    old = path.rpartition(".")[2]
    of_data = path in ("ebmzoo.data.Interpolation", "ebmzoo.data.ood.Interpolation")
    kind = getattr(import_module(module), name)
    assert isinstance(kind, type)
    assert kind.__name__ == ("InterpolatedImages" if of_data else RENAMED.get(old, old))
    assert moved(present) == present


def test_every_entry_is_needed():
    """No entry of the table is dead: without it a class of format 2 has no present path."""
    used = {max((old for old in MOVED if f"{path}.".startswith(f"{old}.")), key=len, default=None) for path in CLASSES}
    assert set(MOVED) <= used
    assert not any(exists(path) for path in CLASSES if moved(path) != path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("class_path: ebmzoo.methods.SamplesInStages", "class_path: ebmzoo.methods.SamplesInStages"),
        ("class_path: ebmzoo.methods.Samplings", "class_path: ebmzoo.methods.Samplings"),
        ("class_path: my.ebmzoo.schedule.CosineSchedule", "class_path: my.ebmzoo.schedule.CosineSchedule"),
        ("class_path: myebmzoo.langevin.Langevin", "class_path: myebmzoo.langevin.Langevin"),
        ("class_path: ebmzoo.scheduled.Tasks", "class_path: ebmzoo.scheduled.Tasks"),
        ("class_path: ebmzoo.tasks.Interpolation", "class_path: ebmzoo.tasks.Interpolation"),
        ("[ebmzoo.data.Interpolation,'ebmzoo.schedule.X']", "[ebmzoo.data.InterpolatedImages,'ebmzoo.sampling.X']"),
        ("a: ebmzoo.data.ood.Interpolation\nb: 1", "a: ebmzoo.data.InterpolatedImages\nb: 1"),
    ],
)
def test_whole_paths_alone_are_replaced(text, expected):
    assert moved(text) == expected


def replaced(name, keys, value):
    """The config `name` of `configs/` with another value at `keys`."""
    config = read_config(CONFIGS / name)
    section = config
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = value
    return config


def model(key):
    return "model", "init_args", key


RECOVERY_CHAIN = "ebmzoo.sampling.RecoveryChain"
RESTORATION = "ebmzoo.tasks.Restoration"


@pytest.mark.parametrize(
    ("config", "keys", "value", "old", "new"),
    [
        *(
            (f"{config}/digits.yaml", keys, {"class_path": old}, old, new)
            for config, keys, old, new in (
                ("cdrl", model("schedule"), "ebmzoo.schedule.CosineSchedule", "ebmzoo.sampling.CosineSchedule"),
                (
                    "cdrl",
                    model("chain"),
                    "ebmzoo.methods.recovery_chain.RecoveryChain",
                    "ebmzoo.sampling.RecoveryChain",
                ),
                ("liebm", model("elbo"), "ebmzoo.methods.liebm.Elbo", "ebmzoo.methods.LIEBMElbo"),
                ("liebm", model("sampler"), "ebmzoo.langevin.Langevin", "ebmzoo.sampling.Langevin"),
                ("dual_mcmc", model("teaching"), "ebmzoo.methods.Teaching", "ebmzoo.methods.DualMCMCLosses"),
            )
        ),
        (
            *("cdrl/digits.yaml", ("data", "init_args", "ood"), ["ebmzoo.data.Interpolation"]),
            *("ebmzoo.data.Interpolation", "ebmzoo.data.InterpolatedImages"),
        ),
        (
            *("cdrl/digits.yaml", ("tasks",)),
            [{"class_path": RESTORATION, "init_args": {"operators": [{"class_path": "ebmzoo.operators.Identity"}]}}],
            *("ebmzoo.operators.Identity", "ebmzoo.data.degradations.Identity"),
        ),
        (
            *("cdrl/digits.yaml", ("tasks",)),
            [{"class_path": RESTORATION, "init_args": {"restoring": {"class_path": "ebmzoo.methods.Restoring"}}}],
            *("ebmzoo.methods.Restoring", "ebmzoo.methods.RestorationSettings"),
        ),
    ],
)
def test_an_old_path_in_a_config_is_an_error_that_names_the_present_one(
    config, keys, value, old, new, tmp_path, capsys
):
    """A sentence that guessed by similarity would name `ebmzoo.tasks.Interpolation` or `ebmzoo.ssrl.Pretraining`."""
    path = Path(tmp_path / "x.yaml")
    path.write_text(yaml.safe_dump(replaced(config, keys, value)))
    with pytest.raises(SystemExit) as caught:
        main(["fit", "--config", str(path), "--run_dir", str(tmp_path / "run")])
    assert caught.value.code == 2
    assert capsys.readouterr().err.strip().endswith(f"there is no class '{old}'; it is now '{new}'")


def contents(number):
    own = {"format": number, "version": "0.0.9", "config": "model: null", "seen": []}
    return {"state_dict": {}, "global_step": 0, KEY: own}


def test_steps_are_applied_in_their_order():
    def step(name):
        def apply(checkpoint):
            checkpoint[KEY]["seen"].append(name)
            return checkpoint

        return apply

    result = migrated(contents(2), "x.ckpt", steps={1: step("one"), 2: step("two"), 3: step("three")}, newest=4)
    assert result[KEY]["seen"] == ["two", "three"]
    assert result[KEY]["format"] == 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (contents(FORMAT + 1), ["0.0.9", "newer"]),
        (contents(0), ["format 0", "no longer"]),
        (contents("one"), ["has no format number"]),
        ({"state_dict": {}}, ["contains no config"]),
        ({KEY: {"format": FORMAT, "config": None}}, ["contains no config"]),
        ([1, 2], ["contains no config"]),
    ],
)
def test_what_cannot_be_migrated_is_an_error_that_says_why(content, words, tmp_path):
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError) as caught:
        read(tmp_path / "x.ckpt")
    assert all(word in str(caught.value) for word in ["x.ckpt", *words])


def test_lightning_reads_checkpoints_by_the_same_migration(tmp_path):
    torch.save(contents(FORMAT + 1), tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="newer"):
        MigratingIO().load_checkpoint(tmp_path / "x.ckpt")


def test_the_argument_told_of_format_2_is_time():
    config = "schedule:\n  class_path: ebmzoo.schedule.DRLSchedule\n  init_args:\n    levels: 8\n    told: logsnr\n"
    after = STEPS[2]({KEY: {"format": 2, "config": config}})[KEY]["config"]
    schedule = yaml.safe_load(after)["schedule"]
    assert schedule == {"class_path": "ebmzoo.sampling.DRLSchedule", "init_args": {"levels": 8, "time": "logsnr"}}
