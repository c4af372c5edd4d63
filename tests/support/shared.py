"""Runs with the networks of configs, as training would have left them, for the tests of shared models."""

import lightning
import torch
import yaml

from ebmzoo.methods import Method
from ebmzoo.training.checkpoint import LAST
from ebmzoo.training.config import build_model
from ebmzoo.training.config_files import named_config
from ebmzoo.training.durable import DurableIO
from ebmzoo.training.migration import FORMAT, KEY
from ebmzoo.version import __version__

CLASSES = [str(digit) for digit in range(10)]
SETS = {
    "train": {"name": "digits", "n": 1500, "digest": "1d3f"},
    "test": {"name": "digits", "n": 297, "digest": "bc22"},
}


def saved_run(folder, name, **changes):
    """A run in a folder, with the config `name` and random weights, whose averages are others; returns the method.

    `changes` are keys of the config.
    """
    config = yaml.safe_load(named_config(name)) | changes
    torch.manual_seed(0)
    method = build_model(yaml.safe_dump(config))
    assert isinstance(method, Method)
    with torch.no_grad():
        for tensor in [*method.averages.parameters()]:
            tensor.add_(0.01 * torch.randn_like(tensor))
    write_checkpoint(folder, method, config)
    return method.eval()


def write_checkpoint(folder, method, config):
    """The `last.ckpt` of a run."""
    own = {"format": FORMAT, "version": __version__, "config": yaml.safe_dump(config), "random": [], "buffers": []}
    data = {"record": SETS, "classes": CLASSES, "images": torch.arange(5)}
    checkpoint = {
        "epoch": 1,
        "global_step": 7,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": method.state_dict(),
        "optimizer_states": [{"state": {}, "param_groups": []}],
        KEY: {**own, "rollbacks": {}, "data": data},
    }
    folder.mkdir(parents=True, exist_ok=True)
    DurableIO().save_checkpoint(checkpoint, folder / LAST)
