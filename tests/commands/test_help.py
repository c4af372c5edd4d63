"""`ebmzoo fit --help` and `--help.all`, and what Lightning says of itself."""

import logging
import re
import warnings

import pytest

from ebmzoo.commands.cli import main
from ebmzoo.commands.command_line import kept_ood
from ebmzoo.commands.environment import SILENT, quietly
from ebmzoo.commands.help import EXAMPLES, MORE, OF_COMMAND, RUN, TRAINER, page
from ebmzoo.training.config_files import config_path

COMMANDS = ("fit", "validate", "test", "predict")


def whole_help(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help.all"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_short_and_begins_with_examples(command, flag, capsys):
    main([command, flag])
    output = capsys.readouterr().out
    assert output.index("Examples:") < 100
    assert len(output.splitlines()) < 100
    assert max(map(len, output.splitlines())) <= 120
    assert " at 0x" not in output
    assert "--help.all" in output


def test_help_of_fit_names_methods_baselines_and_data_sets():
    text = page("fit")
    methods, baselines = text.index("Configs of methods"), text.index("Configs of baselines")
    assert methods < text.index("liebm_cifar,") < baselines < text.index("vae_digits,", baselines)
    assert "ImageFolder" in text
    assert "Checkerboard" in text
    assert "beta01" not in text, "ablations are not listed"


@pytest.mark.parametrize("command", COMMANDS)
def test_all_keys_are_in_the_whole_help_which_has_no_addresses(command, capsys):
    output = whole_help(capsys, command)
    assert " at 0x" not in output
    assert ":paramref:" not in output
    assert not re.search(r"^.*(advantage is|<class '.*'>):$", output, re.MULTILINE)
    assert "--trainer.max_steps" in output
    assert "HatEBM" in output, "baselines are known subclasses too"
    names = [*RUN, *OF_COMMAND.get(command, {}), *TRAINER, *MORE]
    for name in names:
        flag = name.split()[0]
        assert flag == "--help.all" or flag in output, flag


def test_configs_in_examples_exist():
    for text in EXAMPLES.values():
        for name in re.findall(r"--config (\w+)", text):
            assert config_path(name).exists()


@pytest.mark.parametrize("text", SILENT)
def test_what_lightning_says_of_itself_is_silent(text, caplog):
    with quietly(), caplog.at_level(logging.INFO):
        logging.getLogger("lightning.pytorch.utilities.rank_zero").info("%s", text)
        logging.getLogger("lightning.pytorch.utilities.rank_zero").info("news")
    assert [record.getMessage() for record in caplog.records] == ["news"]


def test_warnings_that_do_not_apply_are_silent():
    with warnings.catch_warnings(record=True) as caught, quietly():
        warnings.warn("Be aware that when using `ckpt_path`, callbacks …", stacklevel=1)
        warnings.warn("The number of training batches (4) is smaller than the logging interval", stacklevel=1)
        warnings.warn("a warning of yours", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["a warning of yours"]


def test_data_that_keeps_the_configs_sets_says_so(tmp_path):
    config = tmp_path / "x.yaml"
    config.write_text("data: {class_path: a.Digits, init_args: {ood: [{class_path: a.Uniform}]}}")
    args = ["fit", "--config", str(config), "--data", "b.Own"]
    data = {"class_path": "b.Own", "init_args": {"ood": [{"class_path": "a.Uniform"}]}}
    found = kept_ood(args, data)
    assert found is not None
    assert found.startswith("data.ood: b.Own keeps the config's out-of-distribution sets, Uniform;")
    assert kept_ood(args[:3], data) is None
    assert kept_ood([*args, "--data.ood", "[]"], data) is None
    assert kept_ood(args, {"class_path": "b.Own", "init_args": {"ood": []}}) is None
    assert kept_ood(args, data | {"class_path": "a.Digits"}) is None
