"""What to set where data and model have images of different shapes."""

import pytest

from ebmzoo import UserError
from ebmzoo.data import Checkerboard, Digits, ImageFolder
from ebmzoo.data.matching import fitted_to, matching_flags

NETWORKS = {
    "class_path": "LIEBM",
    "init_args": {
        "energy_net": {"class_path": "E", "init_args": {"features": {"init_args": {"in_channels": 1, "size": 8}}}},
        "generator": {"class_path": "G", "init_args": {"out_channels": 1, "size": 8}},
        "encoder": {"class_path": "H", "init_args": {"in_channels": 1, "mean": [0.25], "std": [0.5]}},
        "sampler": {"steps": 8},
    },
}


def test_the_flags_change_the_data_or_the_model():
    assert matching_flags(ImageFolder("x", size=8, channels=1), NETWORKS) == ""
    assert matching_flags(ImageFolder("x", size=16, channels=1), NETWORKS) == (
        "; set --data.size 8, or --model.energy_net.features.size 16 --model.generator.size 16"
    )
    assert matching_flags(ImageFolder("x", size=8, channels=3), NETWORKS) == (
        "; set --data.channels 1, or --model.energy_net.features.in_channels 3 --model.generator.out_channels 3 "
        "--model.encoder.in_channels 3 --model.encoder.mean [0.25,0.25,0.25] --model.encoder.std [0.5,0.5,0.5]"
    )


def test_data_of_one_size_have_no_flags():
    assert matching_flags(Digits(), {"init_args": {"size": 32, "in_channels": 1}}) == "; set --model.size 8"
    assert matching_flags(Checkerboard(n_train=2, n_test=2), {"init_args": {"size": 8}}) == "; set --model.size 1"


def test_sizes_that_differ_among_networks_are_the_models_to_change():
    section = {"init_args": {"generator": {"size": 16}, "inference": {"size": 8}}}
    assert matching_flags(ImageFolder("x", size=8), section) == "; set --model.generator.size 8"


def test_networks_on_latents_are_left_out():
    section = {"init_args": {"coder": {"init_args": {"in_channels": 1}}, "energy_net": {"in_channels": 2}, "size": 8}}
    found = matching_flags(ImageFolder("x", size=8, channels=3), section)
    assert found == "; set --data.channels 1, or --model.coder.in_channels 3"


def test_without_a_config_there_are_no_flags():
    assert matching_flags(Digits(), None) == ""


@pytest.mark.parametrize(
    ("error", "words"), [(RuntimeError("12x3\nmore"), "shape (1, 8, 8)"), (UserError("size: 9 is not 8"), "size: 9")]
)
def test_an_error_of_a_dry_run_names_the_flags(error, words):
    with pytest.raises(UserError) as caught, fitted_to(Digits(), {"init_args": {"size": 9}}):
        raise error
    assert words in str(caught.value)
    assert str(caught.value).endswith("; set --model.size 8")
    assert "\n" not in str(caught.value)
