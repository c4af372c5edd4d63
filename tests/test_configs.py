"""Every config is parsed, built and run for two tiny batches, made small by one rule."""

import re

import pytest
import torch
import yaml
from jsonargparse._common import denying_import_path_entry
from jsonargparse._util import import_object

from ebmzoo import load
from ebmzoo.commands.cli import main
from ebmzoo.data.plane import PlaneData
from ebmzoo.methods import DualMCMCLosses, Method
from ebmzoo.training.config import build_model
from ebmzoo.training.config_files import EXTENDS, config_path, config_paths, merged, named_config, read_config
from ebmzoo.training.trust import restricted_imports
from support.shrinking import FOLDER, shrink

CONFIGS = sorted(config_paths().values())
PATHS_OF_BEFORE = ("liebm_cifar", "liebm_digits", "classifier_digits", "baselines/vae_digits")


def channels(node):
    """The number of image channels that a config's networks are written for."""
    if isinstance(node, list):
        return max(map(channels, node), default=0)
    if not isinstance(node, dict):
        return 0
    return max([node.get("in_channels", 0), *map(channels, node.values())])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(FOLDER)))
def test_config_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    config = shrink(read_config(path))
    model = config["model"]["init_args"]
    if isinstance(stage := model.get("encoder_stage"), dict) and "epochs" in stage:
        stage["epochs"] = 1  # then one batch of each stage is run
    of_data = config["data"]["class_path"]
    if issubclass(import_object(of_data), PlaneData):  # points, which stay points
        config["data"] = {"class_path": of_data, "init_args": {"n_train": 8, "batch_size": 8}}
        if "size" in model:
            model["size"] = 1
    else:
        tiny = {"n": 8, "channels": model.get("in_channels") or channels(config)}
        if "num_classes" in model:
            model["num_classes"] = 4  # those of the tiny data
        config["data"] = {"class_path": "support.tiny.TinyData", "init_args": tiny}
    for task in config.get("tasks", []):
        for extractor in task.get("init_args", {}).get("extractors", []):
            assert extractor["class_path"].startswith("ebmzoo.metrics.")
    config["tasks"] = []
    config["trainer"] |= {"max_epochs": 2, "max_steps": -1, "limit_val_batches": 0}
    config["trainer"] |= {"accelerator": "cpu", "precision": "32-true", "enable_progress_bar": False}
    if model.get("encoder_checkpoint"):
        model["encoder_checkpoint"] = str(_encoder(model["encoder"], tmp_path / "encoder.ckpt"))
    if model.get("coder_checkpoint"):
        model["coder_checkpoint"] = str(_coder(model["coder"], tmp_path / "coder.ckpt"))
    small = tmp_path / "small.yaml"
    small.write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(small), "--run_dir", str(tmp_path / "run")])
    made = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert made["global_step"] == 2
    assert isinstance(load(tmp_path / "run" / "last.ckpt"), torch.nn.Module)  # without trust
    assert all(value.isfinite().all() for value in made["state_dict"].values() if value.is_floating_point())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(FOLDER)))
def test_config_is_valid_as_written(path, capsys):
    """Every key and class of the real file is accepted, also of its data and tasks; all that a run keeps is allowed."""
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(path), "--print_config"])
    told = capsys.readouterr()
    assert stopped.value.code == 0, told.err
    named = set(re.findall(r"class_path: *([\w.]+)", told.out))
    assert len(named) > 2
    with restricted_imports():
        for name in named:
            made = import_object(name)
            for place in (name, f"{made.__module__}.{made.__qualname__}"):
                assert denying_import_path_entry(place) is None, place
    assert read_config(path)["run_dir"].startswith("runs/")


def _encoder(section, path):
    model = {
        "class_path": "ebmzoo.ssrl.Pretraining",
        "init_args": {"encoder": section, "objective": {"class_path": "ebmzoo.ssrl.SimCLR"}},
    }
    built = build_model(yaml.safe_dump({"model": model}))
    torch.save({"state_dict": built.state_dict()}, path)
    return path


def _coder(section, path):
    training = {"class_path": "ebmzoo.methods.KLAutoEncoderTraining", "init_args": {"coder": section}}
    torch.save({"state_dict": build_model(yaml.safe_dump({"model": training})).state_dict()}, path)
    return path


def test_the_two_presets_of_dual_mcmc_are_its_teaching_s():
    def written(name):
        return read_config(config_path(name))["model"]["init_args"]

    official, paper = written("dual_mcmc_cifar"), written("dual_mcmc_paper_cifar")
    assert DualMCMCLosses(**official["teaching"]) == DualMCMCLosses.official()
    assert DualMCMCLosses(**paper["teaching"]) == DualMCMCLosses()
    assert DualMCMCLosses(**written("dual_mcmc_celeba64")["teaching"]) == DualMCMCLosses.official(chain_weight=70.0)
    assert official["posterior"].pop("legacy_sigma")
    assert not paper["posterior"].pop("legacy_sigma")
    assert official["posterior"] == paper["posterior"]


def test_each_run_folder_is_used_once():
    folders = [read_config(path)["run_dir"] for path in CONFIGS]
    assert len(folders) == len(set(folders))


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("liebm_cifar", {"energy_net": 4_927_040, "generator": 4_276_739}),
        ("liebm_erm_cifar", {"energy_net": 4_927_040, "generator": 4_276_739, "inference": 15_208_064}),
        ("liebm_imagenet32", {"energy_net": 17_651_264, "generator": 16_024_579}),
        ("liebm_celeba64", {"energy_net": 20_657_921, "generator": 12_220_675, "inference": 15_210_752}),
        ("liebm_celebahq256", {"generator": 34_276_995, "inference": 8_064_512}),
        ("dual_mcmc_cifar", {"energy_net": 16_793_088, "generator": 16_024_579, "inference": 15_208_064}),
        ("dual_mcmc_paper_cifar", {"energy_net": 16_793_088, "generator": 16_024_579, "inference": 15_208_064}),
        ("dual_mcmc_celeba64", {"energy_net": 19_536_768, "generator": 12_220_675, "inference": 15_210_752}),
        ("dual_mcmc_church64", {"energy_net": 19_536_768, "generator": 12_220_675, "inference": 15_210_752}),
        ("dual_mcmc_celebahq256", {"generator": 34_276_995, "inference": 8_064_512}),
        ("vae_cifar", {"generator": 4_276_739, "inference": 15_208_064}),
    ],
)
def test_configs_have_the_papers_parameter_counts(name, counts):
    with torch.device("meta"):
        model = build_model(named_config(name))
    assert isinstance(model, Method)
    for part, count in counts.items():
        assert sum(p.numel() for p in getattr(model, part).parameters()) == count, part


MNIST = [path for path in CONFIGS if path.name == "mnist.yaml" and path.parent.name not in ("classifier", "simclr")]


def test_every_method_that_runs_on_digits_runs_on_mnist_with_the_same_images_and_budget():
    others = {"autoencoder", "byol", "classifier", "mae", "simclr", "wmse"}
    assert {path.parent for path in MNIST} == {p.parent for p in CONFIGS if p.name == "digits.yaml"} - {
        FOLDER / name for name in (*others, "baselines", "benchmarks", "sweeps")
    }
    first = read_config(MNIST[0])
    for config in map(read_config, MNIST):
        assert config["data"] == first["data"], config["run_dir"]
        assert config["trainer"] == first["trainer"], config["run_dir"]


@pytest.mark.parametrize("path", MNIST, ids=lambda p: p.parent.name)
def test_networks_on_mnist_are_of_one_class_of_size_which_the_config_states(path):
    with torch.device("meta"):
        model = build_model(named_config(f"{path.parent.name}_mnist"))
    children = {name: part for name, part in model.named_children() if name not in ("averages", "objective")}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in children.items()}
    least = 0.1 if path.parent.name == "jem" else 0.3  # the size with which JEM learns (docs/results/mnist.md)
    assert least <= round(sum(counts.values()) / 1e6, 1) <= 2.0
    for name, count in counts.items():
        assert not count or f"{name} {count:,}" in path.read_text(), name


@pytest.mark.parametrize("name", PATHS_OF_BEFORE)
def test_paths_that_users_know_are_files_of_the_same_config(name):
    assert read_config(FOLDER / f"{name}.yaml") == read_config(config_path(name.rpartition("/")[2]))


ABLATIONS = [path for path in CONFIGS if path.parent.name == "ablations"]


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda p: str(p.relative_to(FOLDER)))
def test_an_ablation_says_what_it_changes_and_no_more(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 15
    overlay = yaml.safe_load(text)
    base = read_config(path.parent / overlay.pop(EXTENDS))
    assert list(repeated(base, overlay)) == []
    assert merged(base, overlay) == read_config(path)


def repeated(base, overlay, key=""):
    """The keys of an overlay that say what the base says already."""
    if not isinstance(base, dict) or not isinstance(overlay, dict) or differ(base, overlay):
        if base == overlay:
            yield key
        return
    for name, value in overlay.items():
        if name in base and name != "class_path":
            yield from repeated(base[name], value, f"{key}.{name}".lstrip("."))


def differ(base, overlay):
    return "class_path" in overlay and overlay["class_path"] != base.get("class_path")
