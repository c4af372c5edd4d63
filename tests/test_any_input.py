"""Whatever a file or a command line holds, `ebmzoo` does its work or says in one sentence what is wrong with it.

`make fuzz` tries twenty times as many examples, others at each call. Nothing is trained, and no large model is built.
"""

import contextlib
import copy
import io
import json
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ebmzoo.commands.benchmark import runner
from ebmzoo.commands.cli import COMMANDS, main
from ebmzoo.commands.command_line import options, prepared
from ebmzoo.commands.lightning import ZooCLI
from ebmzoo.commands.resume import Saved, start
from ebmzoo.errors import UserError
from ebmzoo.networks.weights import read_weights
from ebmzoo.training import checkpoint
from ebmzoo.training.config import LIMITS, build_model
from ebmzoo.training.config_files import config_path, read_config
from ebmzoo.training.migration import FORMAT, moved
from support.odd import TEXTS, VALUES, changed, examples, is_impossible, with_another_number
from support.paths import CONFIGS, DATA

OLD = DATA / "format1.ckpt"


class Reached(Exception):
    """Everything was accepted, and the work would begin."""


def reached(*_, **__):
    raise Reached


@pytest.fixture(scope="module", autouse=True)
def nothing_is_done(tmp_path_factory):
    """The work of a command ends in `Reached`; the parser of Lightning's commands is built once."""
    setup, kept, built = ZooCLI.setup_parser, {}, {}

    def once(self, *args):
        if not kept:
            setup(self, *args)
            names = ("parser", "_subcommand_method_arguments", "_subcommand_parsers")
            kept.update({name: getattr(self, name) for name in names})
        vars(self).update(kept)

    def built_once(config, trust=True):
        if config not in built:
            built.clear()
            built[config] = build_model(config, trust)
        return built[config]

    def planned(plan):
        for run in plan.runs:
            assert runner._fit(run)[0] == "fit"
            assert runner._test(run, plan.test)[0] == "test"
            assert not runner._trained(run)
            json.dumps(run.wanted(), default=str)
        raise Reached

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("any"))
        patch.setenv("WANDB_MODE", "disabled")
        patch.setattr(ZooCLI, "setup_parser", once)
        patch.setattr(ZooCLI, "before_instantiate_classes", reached)
        patch.setattr("ebmzoo.commands.lightning.start_with_lock", lambda args: (start(args), None))
        patch.setattr("ebmzoo.training.config.build_model", built_once)
        patch.setattr("ebmzoo.commands.benchmark.command.execute", planned)
        patch.setattr("ebmzoo.commands.estimate.command.estimate", reached)
        yield


def said(*args):
    """What a command says of its input: a sentence; None where it accepts it; and all that it prints."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(arg) for arg in args])
        except Reached:
            pass
        except SystemExit as ended:
            code = ended.code or 0
    printed = out.getvalue() + err.getvalue()
    lines = [line for line in err.getvalue().splitlines() if line.startswith("ebmzoo: ")]
    assert "Traceback" not in printed
    assert (code, len(lines)) in ((0, 0), (2, 1)), (code, printed)
    assert all(len(line) <= 700 and line.isprintable() for line in lines), lines
    return (lines[0] if lines else None), printed


# ── configs ──────────────────────────────────────────────────────────────────────────────────────────────────────────

BASES = {name: read_config(config_path(name)) for name in ("vae_digits", "igebm_digits")}


@examples(0.1)
@given(st.sampled_from(sorted(BASES)).flatmap(lambda name: changed(BASES[name]) | with_another_number(BASES[name])))
def test_configs(made):
    config, _ = made
    Path("config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    sentence, _ = said("fit", "--config", "config.yaml")
    assert sentence is not None or not is_impossible(config, LIMITS)


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────────────

CONTENTS = read_weights(OLD)
CONTENTS["ebmzoo"] |= {
    "format": FORMAT,
    "config": moved(CONTENTS["ebmzoo"]["config"]),
    "random": [{"cpu": torch.get_rng_state(), "cuda": []}],
    "buffers": [{"generator.last.bias": torch.zeros(1)}],
    "rollbacks": {"tries": 1, "changed": {"seed_everything": 1}},
    "data": {
        "record": {part: {"n": 9, "name": "digits", "digest": "01"} for part in ("train", "test")},
        "classes": ["a", "b"],
        "images": torch.zeros(3, dtype=torch.int64),
    },
    "optimizers": ["energy_net", "generator"],
    "conditions": {"precision": "32-true", "threads": 1},
}
ARGS = ["validate", "--ckpt_path", str(OLD)]
TENSORS = st.sampled_from(
    [torch.zeros(3), torch.full((2, 2), torch.nan), torch.zeros(1).expand(10**12), torch.empty(2, device="meta")]
)


OWN = changed(CONTENTS["ebmzoo"], VALUES | TENSORS).map(lambda made: ({**CONTENTS, "ebmzoo": made[0]}, []))


@examples(0.2)
@given(changed(CONTENTS, VALUES | TENSORS) | OWN)
def test_checkpoints(made):
    contents, done = made
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "read_weights", lambda path: copy.deepcopy(contents))
        sentence = refusal_of_checkpoint()
    if any(path[0] == "state_dict" for path, _, _ in done):
        assert sentence is not None, "the weights are others"


def refusal_of_checkpoint():
    """What the commands say of the checkpoint; None where they would use it."""
    try:
        options([*ARGS, *Saved.at(OLD).rollbacks.flags])
        prepared(ARGS, Path())
        checkpoint.load(OLD)
    except UserError as error:
        sentence = str(error)
    else:
        return None
    assert sentence.startswith("ckpt_path: ")
    assert len(sentence) <= 700
    return sentence


# ── folders of runs ──────────────────────────────────────────────────────────────────────────────────────────────────

PROTOCOL = {
    "n": 1000,
    "extractors": {"pixels": {"sha256": None, "features": 64}},
    "chains": {"full": {"start": "noise", "steps": 60, "temperature": 1e-6}},
    "weights": "ema",
    "sets": {
        "train": {"n": 9, "name": "digits", "digest": "0123456789"},
        "out": {"uniform": {"n": 9, "name": "noise"}},
    },
    "threads": 1,
}
DETECTION = {
    "in": "digits",
    "in_images": 297,
    "out_images": {"uniform": 297},
    "kinds": {"uniform": "far"},
    "chosen": {"score": "energy", "reported_on": {"in": 100, "uniform": 99}},
    "weights": "ema",
}
FILES = {
    "config.yaml": {
        "model": {"class_path": "ebmzoo.methods.CLEL", "init_args": {"beta": 0.1}},
        "data": {"class_path": "ebmzoo.data.CIFAR10", "init_args": {"val_fraction": 0.1, "seed": 1}},
    },
    "training.json": {"iterations": 10, "seconds": 2.5, "parameters": {"net": 3}, "finished": False, "device": "cpu"},
    "failed.json": {"stage": "test", "error": "it ended"},
    "test/generation.json": {
        "task": "generation",
        "figures": {"fd_pixels": 4.0, "no_mcmc/fd_pixels": 5.0, "seconds": 2.0, "nfe": 60.0},
        "spread": {"fd_pixels": 0.5},
        "notes": ["a note"],
        "protocol": PROTOCOL,
    },
    "test/ood.json": {
        "task": "ood",
        "figures": {"uniform/auroc_score": 0.5, "far/auroc_chosen": 1},
        "protocol": DETECTION,
    },
}
CURVES = "csv/version_0/metrics.csv"
ROWS = "step,train/energy_gap\n1,0.5\n2,0.25\n"
JUNK = st.binary(max_size=40) | st.sampled_from(
    [
        b"",
        b"{",
        b"[" * 3000,
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"a\0b",
    ]
)
PICTURE = io.BytesIO()
Image.new("L", (2000, 2)).save(PICTURE, "PNG")
NAMES = (*FILES, CURVES, "test/samples.png", "test/real.png", "csv/version_x/metrics.csv")


def dumped(name, content):
    return yaml.safe_dump(content, allow_unicode=True) if name.endswith("yaml") else json.dumps(content)


def write(folder, files):
    for name, content in files.items():
        path = Path(folder, name)
        if path.is_dir():
            path.rmdir()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))


WHOLE = {name: dumped(name, content) for name, content in FILES.items()} | {CURVES: ROWS}
WHOLE |= {name: PICTURE.getvalue() for name in NAMES if name.endswith("png")}
ODD_FILES = st.sampled_from(sorted(FILES)).flatmap(
    lambda name: changed(FILES[name]).map(lambda made: {name: dumped(name, made[0])})
) | st.dictionaries(st.sampled_from(NAMES), JUNK | JUNK.map(lambda junk: PICTURE.getvalue()[:40] + junk), min_size=1)


@examples(0.2)
@given(ODD_FILES, st.sampled_from(["", *NAMES]))
def test_folders_of_runs(files, folder):
    write("good", WHOLE)
    write("odd", WHOLE | {"csv/version_x/metrics.csv": ROWS} | files)
    if folder and folder not in files:
        Path("odd", folder).unlink()
        Path("odd", folder).mkdir()
    sentence, printed = said("compare", "odd", "good", "--all", "--out", "out", "--overwrite")
    assert sentence is None, sentence
    assert " 4 ± 0.5" in printed, "the figures of the run beside it"
    for name, content in files.items():
        if isinstance(content, bytes) and name in FILES and content in (b"", b"{", b"\xff\xfe"):
            assert f"odd/{name}" in printed
    if folder in FILES and folder not in files:
        assert f"odd/{folder} is not a regular file but a folder" in printed


# ── plans of benchmarks ──────────────────────────────────────────────────────────────────────────────────────────────

PLAN = {
    "run_dir": "runs/x",
    "prepare": [{"config": "classifier_digits"}],
    "runs": ["vae_digits", {"config": "igebm_digits", "name": "other", "fit": {"model.clip_norm": 1.0}}],
    "fit": {"trainer.max_steps": 10, "seed_everything": 1},
    "test": {"budget": "quick"},
    "columns": ["ood/*"],
}


@examples(0.25)
@given(changed(PLAN))
def test_plans(made):
    content, _ = made
    Path("plan.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))
    said("benchmark", "plan.yaml")
    assert not Path("runs").exists()


# ── command lines ────────────────────────────────────────────────────────────────────────────────────────────────────

OPTIONS = (
    "--config",
    "--ckpt_path",
    "--run_dir",
    "--out",
    "--n",
    "--seed",
    "--steps",
    "--batch_size",
    "--only",
    "--trust",
)
OPTIONS += (
    "--trainer.max_steps",
    "--trainer.precision",
    "--data.batch_size",
    "--data",
    "--model",
    "--model.sigma",
    "-c",
)
OPTIONS += (
    "--class",
    "--like",
    "--operator",
    "--sigma",
    "--columns",
    "--format",
    "--as",
    "--copy",
    "--runs",
    "--images",
)
OPTIONS += (
    "--seed_everything",
    "--resume",
    "--overwrite",
    "--tasks",
    "--weights",
    "--device",
    "--help",
    "--",
    "-",
    "--=",
)
GIVEN = (
    "vae_digits",
    CONFIGS / "vae" / "digits.yaml",
    OLD,
    "x.npz",
    "bash",
    "sr4",
    "auto",
    "1",
    "-1",
    "true",
    "\udcff",
)
ARGUMENT = TEXTS | st.sampled_from(list(map(str, GIVEN))) | st.integers().map(str)


@examples(0.25)
@given(
    st.sampled_from([*COMMANDS, "fitt", ""]),
    st.lists(st.tuples(st.sampled_from(OPTIONS), ARGUMENT).map(list) | ARGUMENT.map(lambda word: [word]), max_size=3),
)
def test_command_lines(command, words):
    with pytest.MonkeyPatch.context() as patch:
        for module in ("sample", "restore"):
            patch.setattr(f"ebmzoo.commands.{module}.load", reached)
        said(command, *(word for pair in words for word in pair))
