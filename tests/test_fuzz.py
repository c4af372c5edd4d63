"""More than 500 configs and command lines with one thing wrong in each: one sentence that names it, and exit code 2."""

import copy
import inspect
import random
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from ebmzoo.commands.cli import COMMANDS, main
from ebmzoo.commands.lightning import ZooCLI
from ebmzoo.training.config_files import config_path, read_config
from support.paths import DATA
from support.shrinking import SMALL, shrink

BASES = ("liebm_digits", "cdrl_digits", "clel_digits", "denoising_ebm_digits", "dual_mcmc_digits", "simclr_digits")
BASES += ("byol_digits", "mae_digits", "wmse_digits", "classifier_digits", "autoencoder_digits", "cdrl_checkerboard")
BASES += ("coopnets_digits", "igebm_digits", "short_run_digits", "vae_digits")
BASES += ("hat_ebm_digits", "mdsm_digits", "improved_cd_digits", "drl_digits")
BASES += ("score_network_digits", "divergence_triangle_digits", "jem_digits")
EACH = 23
"""Mistakes of each base."""
LIMITED = ("batch_size", "checkpoint_every")
"""Whole numbers that no config may have below 1."""
CONFIG = config_path("liebm_digits")
OLD = DATA / "format1.ckpt"


@pytest.fixture(scope="module", autouse=True)
def one_parser():
    """Building the parsers of Lightning's commands takes longer than all else: it is done once. Nothing is trained."""
    setup, kept = ZooCLI.setup_parser, {}

    def once(self, *args):
        if not kept:
            setup(self, *args)
            names = ("parser", "_subcommand_method_arguments", "_subcommand_parsers")
            kept.update({name: getattr(self, name) for name in names})
        vars(self).update(kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.setattr(ZooCLI, "setup_parser", once)
        patch.setattr("lightning.pytorch.trainer.call._call_and_handle_interrupt", reached)
        yield


def reached(*_, **__):
    raise AssertionError("the trainer was reached")


def base(name):
    config = read_config(config_path(name))
    config["trainer"] |= {"enable_progress_bar": False, "accelerator": "cpu"}
    return shrink(config, {key: value for key, value in SMALL.items() if key != "steps"})


def nodes(node, path=()):
    """Every node of a config with its path."""
    yield path, node
    for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from nodes(child, (*path, key))


def at(config, path):
    for key in path:
        config = config[key]
    return config


def needed(section):
    """The arguments that a section's class has no default for."""
    module, _, name = section["class_path"].rpartition(".")
    known = inspect.signature(getattr(import_module(module), name)).parameters.values()
    known = [p for p in known if p.default is p.empty and "None" not in str(p.annotation)]
    return [p.name for p in known if p.name in section.get("init_args", {})]


def wrong(config, path, node):
    """(what is wrong, the new value) for all that is surely wrong at a node."""
    last = path[-1]
    if isinstance(last, str) and last not in ("class_path", "init_args"):
        yield "misspelt", f"{last}x"
    if last == "class_path":
        yield from (("class", v) for v in ("ebmzoo.methods.Nonsense", "nowhere.Nonsense", "Nonsense", 3))
        yield from (("class", v) for v in ("ebmzoo.sampling.langevin.Langevin", "os.system"))
        yield from (("missing", name) for name in needed(at(config, path[:-1])))
    elif isinstance(node, bool):
        yield from (("value", v) for v in ("perhaps", [1], {"a": 1}))
    elif isinstance(node, float):
        yield from (("value", v) for v in ("much", {"a": 1}, ["x"], float("nan"), float("inf"), float("-inf")))
    elif isinstance(node, int):
        yield from (("value", v) for v in ("much", {"a": 1}, ["x"], 0.5, float("nan")) if last != "limit_val_batches")
        yield from (("value", v) for v in (0, -1) if last in LIMITED)
    elif isinstance(node, list):
        yield from (("value", v) for v in ("much", 3.5, [{"a": 1}]))
    elif isinstance(node, dict) and last != "init_args":
        yield from (("value", v) for v in ("much", 3.5))


def mistakes(name):
    """`EACH` configs of a base, each with what is wrong, and the words of which a sentence must have one."""
    config = base(name)
    found = [(path, *what) for path, node in nodes(config) if path for what in wrong(config, path, node)]
    for path, kind, value in random.Random(name).sample(found, EACH):
        made = copy.deepcopy(config)
        parent = at(made, path[:-1])
        named = [str(key) for key in path if key not in ("class_path", "init_args") and not isinstance(key, int)]
        words = [*named[-2:], str(value)]
        if kind == "misspelt":
            parent[value] = parent.pop(path[-1])
            words = [value]
        elif kind == "missing":
            del parent["init_args"][value]
            words = [value]
        else:
            parent[path[-1]] = value
        if kind == "class":  # or a key that the other class does not have
            words += [*parent.get("init_args", {})]
        if isinstance(value, dict):
            words.append("'a'")
        yield f"{kind} at {'.'.join(map(str, path))}: {value!r}", made, words


def told(capsys, args):
    """What `ebmzoo` says of a wrong command line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in args])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ebmzoo: ")]
    assert stopped.value.code == 2
    assert len(lines) == 1, lines
    assert len(lines[0]) <= 400, lines[0]
    assert "Traceback" not in lines[0]
    return lines[0]


@pytest.mark.parametrize("name", BASES)
def test_wrong_configs(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed = []
    for what, config, words in mistakes(name):
        Path("wrong.yaml").write_text(yaml.safe_dump(config))
        try:
            sentence = told(capsys, ["fit", "--config", "wrong.yaml"])
            assert any(word in sentence for word in words), sentence
        except BaseException as error:  # all of them are shown, whatever they raise
            failed.append(f"{what} => {type(error).__name__}: {str(error)[:300]}")
    assert not failed, "\n".join(failed)


def test_there_are_more_than_500():
    assert len(BASES) * EACH + len(LINES) + len(COMMANDS) * len(FILES) > 500


FIT = ["fit", "--config", CONFIG]
ASK = ["--ckpt_path", OLD]
RESTORE = ["restore", "x.png", *ASK, "--operator", "sr4"]
LINES = [
    ([*FIT, "--model.gama", "1"], "gama"),
    ([*FIT, "--model.sampler.step", "1"], "step"),
    ([*FIT, "--trainer.max_epoch", "1"], "max_epoch"),
    ([*FIT, "--dat.batch_size", "1"], "dat"),
    ([*FIT, "--data.batch_size", "-5"], "batch_size"),
    ([*FIT, "--data.batch_size", "1.5"], "batch_size"),
    ([*FIT, "--data.val_fraction", "1.5"], "val_fraction"),
    ([*FIT, "--data.max_train", "0"], "max_train"),
    ([*FIT, "--data.seed", "-1"], "seed"),
    ([*FIT, "--model.gamma", "nan"], "gamma"),
    ([*FIT, "--model.gamma", ".nan"], "gamma"),
    ([*FIT, "--model.sampler.step_size", ".inf"], "step_size"),
    ([*FIT, "--model.sampler.steps", "-1"], "steps"),
    ([*FIT, "--model.image_range", "[1.0, -1.0]"], "image_range"),
    ([*FIT, "--model.encoder_checkpoint", "x.ckpt"], "encoder_checkpoint"),
    ([*FIT, "--model.chain", "both"], "chain"),
    ([*FIT, "--model.generator.latent", "10000000000000"], "latent 1e+13"),
    ([*FIT, "--model.generator.latent", "-1"], "latent"),
    ([*FIT, "--model.energy_net.hidden", "1000000000000000000000000000000"], "hidden is 1000"),
    ([*FIT, "--model", "os.system"], "os.system"),
    ([*FIT, "--data", "ebmzoo.methods.LIEBM"], "LIEBM"),
    ([*FIT, "--trainer.precision", "bf17"], "precision"),
    ([*FIT, "--trainer.devices", "none"], "devices"),
    ([*FIT, "--trainer.accelerator", "gpuu"], "gpuu"),
    ([*FIT, "--trainer", "3"], "trainer"),
    ([*FIT, "--watchdog", "3"], "watchdog"),
    ([*FIT, "--watchdog.retries", "few"], "retries"),
    ([*FIT, "--tasks", "3"], "tasks"),
    ([*FIT, "--weights", "best"], "weights"),
    ([*FIT, "--run_dir", CONFIG], "digits.yaml"),
    ([*FIT, "--seed_everything", "x"], "seed_everything"),
    ([*FIT, "--seed_everything", "-1"], "seed_everything: -1"),
    ([*FIT, "--seed_everything", str(2**70)], "63 bits"),
    ([*FIT, "--data.seed", str(2**60)], "data.seed"),
    ([*FIT, "--grid_every", "-1"], "grid_every is -1"),
    ([*FIT, "--trainer.max_steps", "0"], "trainer.max_steps is 0"),
    ([*FIT, "--trainer.max_epochs", "0"], "trainer.max_epochs is 0"),
    ([*FIT, "--trainer.min_steps", "10", "--trainer.max_steps", "5"], "trainer.min_steps is 10"),
    ([*FIT, "--trainer.min_epochs", "9", "--trainer.max_epochs", "2"], "trainer.min_epochs is 9"),
    ([*FIT, "--trainer.accumulate_grad_batches", "0"], "trainer.accumulate_grad_batches is 0"),
    ([*FIT, "--trainer.gradient_clip_val", "-1"], "trainer.gradient_clip_val is -1"),
    ([*FIT, "--trainer.limit_train_batches", "0"], "trainer.limit_train_batches is 0"),
    ([*FIT, "--trainer.val_check_interval", "0"], "trainer.val_check_interval is 0"),
    ([*FIT, "--trainer.check_val_every_n_epoch", "0"], "trainer.check_val_every_n_epoch is 0"),
    ([*FIT, "--trainer.precision", "16-mixed"], "trainer.precision is 16-mixed"),
    ([*FIT, "--run_dir", ""], "--run_dir is empty"),
    ([*FIT, "--run_dir="], "--run_dir is empty"),
    ([*FIT, "--run_dir", "s3://bucket/x"], "s3://bucket/x"),
    ([*FIT, "stray"], "stray"),
    (["fit"], "model"),
    (["fitt"], "fitt"),
    (["test", *ASK, "--only", "generatoin"], "generatoin"),
    (["test", *ASK, "--only", ""], "--only is empty"),
    (["test", *ASK, "--only", ","], "only is ','"),
    (["test", *ASK, "--budget", "huge"], "budget"),
    (["test", *ASK, "--trust", "maybe"], "trust"),
    (["validate", *ASK, "--run_dirr", "x"], "run_dirr"),
    (["predict"], "ckpt_path"),
    (["sample", *ASK, "--n", "0"], "n is 0"),
    (["sample", *ASK, "--n", "many"], "many"),
    (["sample", *ASK, "--n", str(10**30)], "63 bits"),
    (["sample", *ASK, "--n", str(10**13)], "GiB of memory"),
    (["sample", *ASK, "--seed", str(2**70)], "seed"),
    (["sample", *ASK, "--out", ""], "--out is empty"),
    (["sample", *ASK, "--out", "s3://bucket/x.png"], "s3://bucket/x.png"),
    (["sample", *ASK, "--out", "x.gif"], "x.gif"),
    (["sample", *ASK, "--batch_size", "0"], "batch_size"),
    (["sample", *ASK, "--steps", "-1"], "steps"),
    (["sample", *ASK, "--weights", "best"], "weights"),
    (["sample", *ASK, "--device", "abacus"], "abacus"),
    (["sample", *ASK, "--clas", "3"], "clas"),
    (["sample", *ASK, "--class", "3", "--like", "x.png"], "--class and --like"),
    (["sample", *ASK, "--class", "3"], "--class"),
    (["sample", *ASK, "--mask", "x.png"], "--inpaint"),
    (["sample", *ASK, "--guidance", "1"], "--guidance"),
    (["sample"], "ckpt_path"),
    (["restore", *ASK], "images"),
    (["restore", "x.png", *ASK], "operator"),
    ([*RESTORE[:-1], "sr5"], "sr5"),
    ([*RESTORE, "--n", "0"], "n is 0"),
    ([*RESTORE, "--n", str(10**13)], "GiB of memory"),
    ([*RESTORE, "--seed", str(2**70)], "seed"),
    ([*RESTORE, "--mask", "x.png"], "--mask"),
    ([*RESTORE[:-1], "denoise"], "--sigma"),
    ([*RESTORE, "--sigmaa", "1"], "sigmaa"),
    (["compare"], "RUN"),
    (["compare", "nowhere"], "nowhere"),
    (["compare", ""], "an argument is empty"),
    (["compare", "nowhere", "--out", "s3://bucket/x"], "s3://bucket/x"),
    (["compare", ".", "--format", "word"], "format"),
    (["benchmark"], "plan"),
    (["benchmark", "nowhere.yaml"], "nowhere.yaml"),
    (["benchmark", CONFIG], "seed_everything"),
    (["dashboard", "--projectt", "x"], "projectt"),
]


@pytest.mark.parametrize(
    ("args", "word"), LINES, ids=lambda x: " ".join(map(str, x[-3:])) if isinstance(x, list) else x
)
def test_wrong_command_lines(args, word, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert word in told(capsys, args)


FILES = {
    "missing": None,
    "folder": None,
    "empty": b"",
    "binary": bytes(range(256)),
    "latin": "run_dir: \xe9\xe8".encode("latin-1"),
    "no YAML": b"model: [1, 2\ndata: {",
    "a list": b"- 1\n- 2\n",
    "a word": b"hello\n",
}


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in ("configs", "completion")])
@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_none(command, kind, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("given.yaml")
    if kind == "folder":
        path.mkdir()
    elif FILES[kind] is not None:
        path.write_bytes(FILES[kind])
    flags = {
        "fit": ["--config", path],
        "estimate": ["--config", path],
        "restore": ["x.png", "--operator", "sr4", "--ckpt_path", path],
        "compare": [path],
        "benchmark": [path],
        "dashboard": ["--runs", path],
        "import": [path, "--as", "dual_mcmc_cifar"],
        "export": ["--what", "energy", "--ckpt_path", path, "--out", "energy.pt2"],
        "animate": [path],
        "push": [path, "--to", "shared"],
    }
    sentence = told(capsys, [command, *flags.get(command, ["--ckpt_path", path])])
    assert "given.yaml" in sentence
