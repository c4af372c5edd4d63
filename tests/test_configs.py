"""Every config is parsed, built and run for two tiny batches, made small by one rule."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse._common import denying_import_path_entry
from jsonargparse._util import import_object

from ebmzoo import load
from ebmzoo.cli import main
from ebmzoo.methods import DualMCMCLosses, Method
from ebmzoo.training.config import build_model
from ebmzoo.training.trust import nothing_foreign

NOT_OF_FIT = ("benchmarks", "sweeps")
FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(p for p in FOLDER.rglob("*.yaml") if p.parent.name not in NOT_OF_FIT)
SMALL = {"width": 16, "hidden": 16, "out_features": 16, "latent": 4}
SMALL |= {"size": 8, "steps": 2, "blocks": [1, 1], "batch_size": 8}
SMALL |= {"latent_steps": 2, "image_steps": 2, "hot": 2, "last": 2, "warmup": 1}
RECOVERY = {"multiples": [1, 1, 1], "depth": 1, "embedding": 16, "classes": 4, "attention": [1]}
"""What CDRL's and DRL's networks have besides, where they have it; the classes are the tiny data's."""
MANY = ("RecoveryResNet", "PlaneEnergy", "UNet", "PlaneInitializer", "UNetDenoiser")


def shrink(node, small=SMALL):
    """Widths, sizes and chain lengths made small, wherever they stand; no classes stay none."""
    if isinstance(node, list):
        return [shrink(x, small) for x in node]
    if not isinstance(node, dict):
        return node
    if node.get("class_path", "").rpartition(".")[2] in MANY:
        small = small | RECOVERY
    if node.get("class_path", "").endswith("KLAutoEncoder"):
        small = small | {"multiples": [1], "depth": 1}
    return {k: small[k] if k in small and v != 0 else shrink(v, small) for k, v in node.items()}


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
    config = shrink(yaml.safe_load(path.read_text()))
    model = config["model"]["init_args"]
    if isinstance(stage := model.get("encoder_stage"), dict) and "epochs" in stage:
        stage["epochs"] = 1  # then one batch of each stage is run
    if config["data"]["class_path"] == "ebmzoo.data.Checkerboard":  # points of the plane, which stay points
        config["data"] = {"class_path": "ebmzoo.data.Checkerboard", "init_args": {"n_train": 8, "batch_size": 8}}
        if "size" in model:
            model["size"] = 1
    else:
        tiny = {"n": 8, "channels": model.get("in_channels") or channels(config)}
        tiny["kinds"] = min(4, model.get("num_classes", 4))
        config["data"] = {"class_path": "tiny.TinyData", "init_args": tiny}
    for task in config.get("tasks", []):
        for extractor in task.get("init_args", {}).get("extractors", []):
            assert extractor["class_path"].startswith("ebmzoo.metrics.")
    config["tasks"] = []
    config["trainer"] |= {"max_epochs": 2, "max_steps": -1, "limit_val_batches": 0}
    config["trainer"] |= {"accelerator": "cpu", "precision": "32-true", "enable_progress_bar": False}
    if "encoder_checkpoint" in model:
        model["encoder_checkpoint"] = str(_encoder(model["encoder"], tmp_path / "encoder.ckpt"))
    if "coder_checkpoint" in model:
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
    with nothing_foreign():
        for name in named:
            made = import_object(name)
            for place in (name, f"{made.__module__}.{made.__qualname__}"):
                assert denying_import_path_entry(place) is None, place
    assert yaml.safe_load(path.read_text())["run_dir"].startswith("runs/")


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
        return yaml.safe_load((CONFIGS[0].parents[1] / name).read_text())["model"]["init_args"]

    official, paper = written("dual_mcmc_cifar.yaml"), written("dual_mcmc_paper_cifar.yaml")
    assert DualMCMCLosses(**official["teaching"]) == DualMCMCLosses.official()
    assert DualMCMCLosses(**paper["teaching"]) == DualMCMCLosses()
    assert DualMCMCLosses(**written("dual_mcmc_celeba64.yaml")["teaching"]) == DualMCMCLosses.official(
        chain_weight=70.0
    )
    assert official["posterior"].pop("legacy_sigma")
    assert not paper["posterior"].pop("legacy_sigma")
    assert official["posterior"] == paper["posterior"]


def test_each_run_folder_is_used_once():
    folders = [yaml.safe_load(path.read_text())["run_dir"] for path in CONFIGS]
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
    path = next(p for p in CONFIGS if p.stem == name and "small" not in p.parts)
    with torch.device("meta"):
        model = build_model(path.read_text())
    assert isinstance(model, Method)
    for part, count in counts.items():
        assert sum(p.numel() for p in getattr(model, part).parameters()) == count, part
