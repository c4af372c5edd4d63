"""The command line in a temporary folder."""

import pytest
import yaml

from ebmzoo.commands.cli import main
from ebmzoo.training.config_files import read_config
from support.paths import ROOT

CONFIG = ROOT / "configs" / "liebm_digits.yaml"


def small(tmp_path, **changes):
    """A file with the digits config at a small size."""
    config = read_config(CONFIG)
    model, data, tasks = config["model"]["init_args"], config["data"]["init_args"], config["tasks"]
    model["energy_net"]["init_args"]["features"]["init_args"] |= {"width": 16, "out_features": 16}
    model["generator"]["init_args"]["width"] = 8
    model["encoder"]["init_args"]["width"] = 8
    model["encoder_stage"] |= {"epochs": 1}
    model["sampler"]["steps"] = 2
    data |= {"batch_size": 30, "max_train": 120}
    tasks[0]["init_args"] |= {"n": 60, "extractors": [{"class_path": "ebmzoo.metrics.Pixels"}]}
    tasks[1]["init_args"] = {"n": 60}
    tasks[2]["init_args"] = {"n_train": 100, "n_test": 60, "epochs": 5, "tsne": 60}
    config["trainer"] |= {"max_epochs": 3, "enable_progress_bar": False, "limit_val_batches": 1}
    config |= {"run_dir": str(tmp_path / "run"), "checkpoint_every": 5, "grid_every": 2} | changes
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def fitted_once(tmp_path_factory):
    """The folder of a small run, fitted without a dashboard."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        tmp_path = tmp_path_factory.mktemp("cli")
        main(["fit", "--config", str(small(tmp_path))])
    return tmp_path / "run"


def fails(capsys, *args):
    """The error of an invalid command line, which must be one sentence."""
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in args])
    assert stopped.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ebmzoo: ")]
    assert len(errors) == 1
    return errors[0]
