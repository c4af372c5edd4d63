"""A run as a shared model, and back: the averaged weights to the bit, and what a stranger may not make of one."""

import json
import os
import shutil

import pytest
import torch
import yaml

from ebmzoo import UserError, load
from ebmzoo.training.checkpoint import LAST, read
from ebmzoo.training.config_files import named_config
from ebmzoo.training.migration import KEY
from ebmzoo.training.sharing.safetensors import read_safetensors, write_safetensors
from ebmzoo.training.sharing.shared_model import CONFIG, WEIGHTS, read_shared, write_shared
from support.shared import CLASSES, SETS, saved_run, write_checkpoint

NAMES = ("liebm", "dual_mcmc", "clel", "cdrl", "denoising_ebm", "energy_matching", "vae", "hat_ebm", "igebm", "jem")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, saved_run(folder, "vae_digits")


@pytest.fixture
def shared(run, tmp_path):
    """A shared model in a folder of the test's own."""
    folder, method = run
    write_shared(tmp_path / "shared", read(folder / LAST), method)
    return tmp_path / "shared"


@pytest.mark.parametrize("name", NAMES)
def test_the_averaged_weights_come_back_to_the_bit(name, tmp_path):
    saved = saved_run(tmp_path / "run", f"{name}_digits")
    write_shared(tmp_path / "shared", read(tmp_path / "run" / LAST), saved)
    found = load(tmp_path / "shared")
    assert not found.training
    before, after = saved.state_dict(), found.state_dict()
    assert before.keys() == after.keys()
    for key, value in before.items():
        network, _, rest = key.partition(".")
        averaged = before.get(f"averages.{network}.module.{rest}", value)
        left_out = key.startswith(saved.training_state)
        assert torch.equal(after[key], torch.zeros_like(value) if left_out else averaged), key
    x = torch.rand(3, 1, 8, 8) * 2 - 1
    with torch.no_grad():
        assert torch.equal(saved.energy(x), found.energy(x))
    steps = None if name == "vae" else 1  # which has no chain
    images = [each.sample(2, steps=steps, generator=torch.Generator().manual_seed(1)).images for each in (saved, found)]
    assert torch.equal(*images)


@pytest.mark.parametrize("name", ["cdrl", "denoising_ebm", "vae"])
def test_half_rounds_the_weights_to_float16_and_nothing_else(name, tmp_path):
    saved = saved_run(tmp_path / "run", f"{name}_digits")
    checkpoint = read(tmp_path / "run" / LAST)
    write_shared(tmp_path / "whole", checkpoint, saved)
    write_shared(tmp_path / "half", checkpoint, saved, half=True)
    tensors, _ = read_safetensors(tmp_path / "half" / WEIGHTS)
    weights = {key for key, _ in saved.named_parameters()}
    assert {key for key, value in tensors.items() if value.dtype == torch.float16} == weights & tensors.keys()
    whole, half = load(tmp_path / "whole").state_dict(), load(tmp_path / "half").state_dict()
    for key, value in whole.items():
        own = key.removeprefix("averages.").replace(".module.", ".", 1) if key.startswith("averages.") else key
        assert half[key].dtype == value.dtype
        assert torch.equal(half[key], value.half().float() if own in weights else value), key
    assert (tmp_path / "half" / WEIGHTS).stat().st_size < 0.65 * (tmp_path / "whole" / WEIGHTS).stat().st_size


def test_half_refuses_what_float16_does_not_reach(run, tmp_path):
    folder, method = run
    checkpoint = read(folder / LAST)
    averaged = {f"averages.{name.replace('.', '.module.', 1)}": name for name, _ in method.named_parameters()}
    key = next(key for key in averaged if key in checkpoint["state_dict"])
    checkpoint["state_dict"][key].fill_(70_000.0)
    with pytest.raises(UserError, match=f"{averaged[key]} has weights beyond 65,504"):
        write_shared(tmp_path / "shared", checkpoint, method, half=True)


def test_states_that_only_training_needs_are_left_out(tmp_path):
    for name, key in (("igebm_digits", "replay.states"), ("hat_ebm_digits", "bank_images")):
        method = saved_run(tmp_path / name, name)
        write_shared(tmp_path / "shared", read(tmp_path / name / LAST), method)
        assert key in method.state_dict()
        assert key not in read_safetensors(tmp_path / "shared" / WEIGHTS)[0]
    config = yaml.safe_load(named_config("igebm_digits"))
    config["model"]["init_args"]["sample_from_replay"] = True
    method = saved_run(tmp_path / "kept", "igebm_digits", model=config["model"])
    method.replay.states.fill_(7)
    write_checkpoint(tmp_path / "kept", method, config)
    write_shared(tmp_path / "shared", read(tmp_path / "kept" / LAST), method)
    assert (load(tmp_path / "shared").replay.states == 7).all()


def test_what_a_checkpoint_states_is_there_without_its_training(shared, run):
    found, before = read(shared), read(run[0] / LAST)
    assert {path.name for path in shared.iterdir()} == {WEIGHTS, CONFIG}
    assert found["global_step"] == 7
    assert found["epoch"] == 1
    assert found[KEY]["data"] == {"record": SETS, "classes": CLASSES}  # without the digest of each image
    assert yaml.safe_load(found[KEY]["config"]) == yaml.safe_load(before[KEY]["config"]) | {"weights": "ema"}
    assert "optimizer_states" not in found
    assert b"torch" not in (shared / WEIGHTS).read_bytes()[:2000]  # no pickle


def test_a_config_that_needs_trust_is_not_shared(run, tmp_path):
    folder, method = run
    checkpoint = read(folder / LAST)
    config = yaml.safe_load(checkpoint[KEY]["config"])
    changes = (
        ({"data": {"class_path": "my_zoo.Images"}}, r"'my_zoo\.Images' is neither a class of ebmzoo nor"),
        ({"tasks": [{"class_path": "subprocess.Popen"}]}, r"'subprocess\.Popen' is neither"),
        ({"trainer": {"callbacks": [{"class_path": "my_zoo.Callback"}]}}, r"^trainer\.callbacks is"),
    )
    for change, sentence in changes:
        own = checkpoint[KEY] | {"config": yaml.safe_dump(config | change)}
        with pytest.raises(UserError, match=sentence):
            write_shared(tmp_path / "refused", checkpoint | {KEY: own}, method)
        assert not (tmp_path / "refused").exists()


def test_a_folder_without_a_shared_model_says_so(tmp_path):
    with pytest.raises(UserError, match=rf"^ckpt_path: the folder {tmp_path} holds no model\.safetensors"):
        load(tmp_path)
    (tmp_path / LAST).touch()
    with pytest.raises(UserError, match=rf"did you mean {tmp_path / LAST}\?$"):
        load(tmp_path)


def change_config(folder, **changes):
    path = folder / CONFIG
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def change_weights(folder, change, about=None):
    tensors, metadata = read_safetensors(folder / WEIGHTS)
    own = json.loads(metadata[KEY]) | (about or {})
    change(tensors)
    write_safetensors(folder / WEIGHTS, tensors, {KEY: json.dumps(own)})


def link(folder, name, target):
    (folder / name).unlink()
    (folder / name).symlink_to(target)


def without(name):
    return lambda folder: (folder / name).unlink()


def model(class_path):
    return lambda folder: change_config(folder, model={"class_path": class_path})


def stated(**about):
    return lambda folder: change_weights(folder, lambda tensors: None, about)


def reshape(tensors):
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 4)
    tensors[name] = tensors[name][:1].clone()


def drop(tensors):
    del tensors[next(name for name, tensor in tensors.items() if tensor.ndim == 4)]


HOSTILE = {
    "no config": (without(CONFIG), "there is no file .*config.yaml"),
    "a link as the weights": (lambda folder: link(folder, WEIGHTS, "/etc/hostname"), "is a link to /etc/hostname"),
    "a link as the config": (lambda folder: link(folder, CONFIG, "/etc/passwd"), "is a link to /etc/passwd, outside"),
    "a link to a device": (lambda folder: link(folder, WEIGHTS, "/dev/zero"), "there is no file"),
    "a folder as the config": (lambda folder: (without(CONFIG)(folder), (folder / CONFIG).mkdir()), "no file"),
    "a pipe as the config": (lambda folder: (without(CONFIG)(folder), os.mkfifo(folder / CONFIG)), "no file"),
    "a huge config": (lambda folder: (folder / CONFIG).write_bytes(b"#" * 2**21), "has more than 1 MiB"),
    "a config that is no text": (lambda folder: (folder / CONFIG).write_bytes(b"\xff\xfe"), "no text|UTF-8"),
    "a config that is no mapping": (lambda folder: (folder / CONFIG).write_text("[1]"), "its config is a list"),
    "an object of Python": (
        lambda folder: (folder / CONFIG).write_text("a: !!python/object/apply:os.system ['touch marker']"),
        "its config is no plain YAML",
    ),
    "a function as the model": (model("os.system"), "'os.system' is neither a class of ebmzoo nor"),
    "the door itself as the model": (model("ebmzoo.load"), "'ebmzoo.load' is neither|ebmzoo.load"),
    "a foreign class": (model("my_zoo.Method"), "'my_zoo.Method' is neither a class of ebmzoo nor"),
    "a key of no run": (lambda folder: change_config(folder, trust=True), "has the key 'trust'"),
    "a key of weights too many": (
        lambda folder: change_weights(folder, lambda tensors: tensors.update(more=torch.zeros(1))),
        "does not hold the weights of the model that its config names",
    ),
    "a shape of another model": (lambda folder: change_weights(folder, reshape), "does not hold the weights"),
    "a tensor too few": (lambda folder: change_weights(folder, drop), "does not hold the weights"),
    "no metadata": (
        lambda folder: write_safetensors(folder / WEIGHTS, read_safetensors(folder / WEIGHTS)[0], {}),
        "was not written by `ebmzoo push`",
    ),
    "metadata that are no JSON": (
        lambda folder: write_safetensors(folder / WEIGHTS, {}, {KEY: "{"}),
        "metadata that cannot be read",
    ),
    "metadata that are deep": (
        lambda folder: write_safetensors(folder / WEIGHTS, {}, {KEY: "[" * 10**5}),
        "metadata that cannot be read",
    ),
    "metadata in a list": (lambda folder: write_safetensors(folder / WEIGHTS, {}, {KEY: "[1]"}), "without a format"),
    "a newer format": (stated(format=10**6), "newer than this"),
    "a negative iteration": (stated(global_step=-1), "its global_step is -1"),
    "an iteration in words": (stated(global_step="7"), "without a global_step of type int"),
    "classes that are numbers": (stated(data={"classes": [1]}), "data.classes are not a list of names"),
    "a shape left out that is none": (stated(left_out={"x": [-1]}), "which is no shape"),
    "a shape left out in words": (stated(left_out={"x": "12"}), "which is no shape"),
    "a huge shape left out": (stated(left_out={"x": [2**30] * 8}), "which is no shape"),
    "the weights left out": (
        stated(left_out={"generator.fc.weight": [2**20, 2**20]}),
        "does not hold the weights of the model",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_strangers_folder_is_refused_in_a_sentence(case, shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, reason = HOSTILE[case]
    make(shared)
    with pytest.raises(UserError, match=reason) as caught:
        load(shared)
    assert str(caught.value).startswith("ckpt_path: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not (tmp_path / "marker").exists()


def test_other_files_in_the_folder_are_not_looked_at(shared):
    (shared / "last.ckpt").write_bytes(b"no checkpoint")
    (shared / "pytorch_model.bin").write_bytes(b"no pickle")
    assert load(shared) is not None


def test_a_link_within_the_hubs_cache_is_followed_and_no_other(shared, tmp_path):
    """There the files are links into the folder of blobs beside."""
    snapshot, blobs = tmp_path / "cache" / "snapshots" / "abc", tmp_path / "cache" / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    for name in (WEIGHTS, CONFIG):
        shutil.copy(shared / name, blobs / name)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    assert load(snapshot) is not None
    link(snapshot, CONFIG, shared / CONFIG)
    with pytest.raises(UserError, match="outside the folder of the shared model"):
        load(snapshot)
    link(snapshot, CONFIG, f"../../blobs/{CONFIG}")
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="outside the folder of the shared model"):
        load(snapshot)


def test_a_left_out_tensor_takes_no_memory(shared):
    change_weights(shared, lambda tensors: None, {"left_out": {"x": [2**20, 2**20]}})
    assert read_shared(shared / WEIGHTS)["state_dict"]["x"].untyped_storage().nbytes() == 1
