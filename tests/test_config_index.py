"""`configs/index.json`, from which `ebmzoo configs` lists method, data, size and parameters of every configuration.

`python tests/test_config_index.py` writes it anew; only what has changed is counted.
"""

import hashlib
import json
from unittest.mock import patch

import pytest
import torch
import yaml

from ebmzoo.data.matching import ImageShape
from ebmzoo.training.config import build_model
from ebmzoo.training.config_files import read_config
from ebmzoo.training.config_names import INDEX, config_paths
from support.paths import CONFIGS

PATH = CONFIGS / INDEX
COUNTED = ("autoencoder_digits", "clel_cifar", "classifier_shapes_shape", "igebm_mnist", "liebm_ejm_mnist")
"""Of every kind of model one that is built in well under a second."""


def entry(config):
    """What the index has of a configuration, without its parameters; `of` identifies the model that they are of."""
    model, data = config["model"], config["data"]
    shape = ImageShape.of(data["class_path"], data.get("init_args") or {})
    return {
        "model": model["class_path"].rpartition(".")[2],
        "data": data["class_path"].rpartition(".")[2],
        "size": [shape.channels, shape.size, shape.size],
        "of": hashlib.sha256(yaml.safe_dump(model).encode()).hexdigest()[:12],
    }


def parameters(config):
    """The number of parameters of all networks, without their averages."""
    # On the meta device spectral norm's first power iterations would take seconds, and change no number of parameters.
    with patch("torch.nn.utils.parametrizations._SpectralNorm._power_method"), torch.device("meta"):
        model = build_model(yaml.safe_dump({"model": config["model"]}))
    parts = [part for name, part in model.named_children() if name != "averages"]
    return sum(p.numel() for p in {id(p): p for part in parts for p in part.parameters()}.values())


def test_the_index_has_every_configuration_as_it_is():
    index = json.loads(PATH.read_text())
    found = {name: {key: x for key, x in each.items() if key != "parameters"} for name, each in index.items()}
    assert found == {name: entry(read_config(path)) for name, path in config_paths().items()}, (
        "run `python tests/test_config_index.py`"
    )


@pytest.mark.parametrize("name", COUNTED)
def test_parameters_of_the_index_are_those_of_the_model(name):
    assert json.loads(PATH.read_text())[name]["parameters"] == parameters(read_config(config_paths()[name]))


def write():
    old, new = json.loads(PATH.read_text()) if PATH.is_file() else {}, {}
    for name, path in config_paths().items():
        config = read_config(path)
        new[name] = entry(config)
        known = old.get(name, {})
        same = known.get("of") == new[name]["of"]
        new[name]["parameters"] = known["parameters"] if same else parameters(config)
    lines = [f"  {json.dumps(name)}: {json.dumps(each)}" for name, each in new.items()]
    PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    write()
