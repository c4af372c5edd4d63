"""`ebmzoo export`: other programs give the method's own numbers, for a batch of any size."""

import json

import onnx
import onnxruntime
import pytest
import torch
import yaml

from ebmzoo import pretrained
from ebmzoo.commands.cli import main
from ebmzoo.commands.exporting.formats import write
from ebmzoo.commands.exporting.functions import Choice, differs
from ebmzoo.errors import UserError
from ebmzoo.training.checkpoint import LastCheckpoint, load
from ebmzoo.training.config import build_model
from ebmzoo.training.config_files import read_config
from support.command_line import fails
from support.paths import ROOT
from support.shared import saved_run
from support.tiny import TinyData, cdrl, denoising_ebm, jem, liebm, trainer, vae

APPLY = {
    "liebm": ("energy", "ood", "generator", "encoder"),
    "dual_mcmc": ("energy", "ood", "generator", "encoder"),
    "cdrl": ("energy", "ood"),
    "clel": ("energy", "ood", "encoder"),
    "denoising_ebm": ("energy", "encoder", "ood"),
}
ALIKE = ("dual_mcmc", "cdrl", "denoising_ebm")
"""Methods whose out-of-distribution score is their energy, of which one file shows enough."""
EVERY = ("energy", "ood", "generator", "encoder")


def digits(method):
    """The method with its networks for the digits, whose averages differ from the trained weights."""
    torch.manual_seed(0)
    built = build_model(yaml.safe_dump({"model": read_config(ROOT / "configs" / method / "digits.yaml")["model"]}))
    if method == "denoising_ebm":
        built.ood_seeds = 2  # each is a pass of the network in the file, which takes its time to write
    for average in built.averages.values():
        for parameter in average.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
    return built.eval()


def of_runtime(path, function, n):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run([function.name], {function.argument: function.example(n).numpy()})[0])


@pytest.mark.parametrize("method", APPLY)
def test_onnxruntime_gives_the_same_numbers_at_every_size(method, tmp_path):
    built = digits(method)
    for what in APPLY[method]:
        function = Choice(what).of(built)
        if what == "ood" and method in ALIKE:
            continue
        write(function, "onnx", tmp_path / f"{what}.onnx", {"input": function.takes})
        for n in (1, 5):
            with torch.no_grad():
                expected = function(function.example(n))
            assert len(expected) == n
            assert not differs(of_runtime(tmp_path / f"{what}.onnx", function, n), expected), what
    built.use_averages = False
    function = Choice("energy").of(built)
    with torch.no_grad():
        raw = function(function.example(5))
    assert differs(of_runtime(tmp_path / "energy.onnx", function, 5), raw), "the averages were exported"


@pytest.mark.parametrize("method", APPLY)
def test_what_a_method_lacks_is_one_sentence(method):
    built = digits(method)
    for what in set(EVERY) - {*APPLY[method]}:
        with pytest.raises(UserError, match=rf"^what is {what}, but (a|this) .* has none; it can be energy"):
            Choice(what).of(built)


def test_a_level_is_chosen(tmp_path):
    built = digits("cdrl")
    function = Choice("energy", level=3).of(built)
    write(function, "onnx", tmp_path / "e.onnx", {})
    x = function.example(5)
    with torch.no_grad():
        assert not differs(of_runtime(tmp_path / "e.onnx", function, 5), built.energy_at(x, 3))
        assert differs(built.energy(x), built.energy_at(x, 3))
    for choice, sentence in (
        (Choice("energy", level=99), "level is 99; it must be from 0 to"),
        (Choice("ood", level=1), "level is 1, which only the energy"),
        (Choice("energy", representation="x"), "which only --what encoder has"),
    ):
        with pytest.raises(UserError, match=sentence):
            choice.of(built)
    with pytest.raises(UserError, match="level is 1, which only"):
        Choice("energy", level=1).of(vae())
    with pytest.raises(UserError, match="representation is x; it must be one of energy, encoder"):
        Choice("encoder", representation="x").of(liebm())


def test_a_program_of_torch_holds_what_it_uses_alone(tmp_path):
    built = denoising_ebm()
    built.register_buffer("replay", torch.zeros(1000, 1000))
    function = Choice("ood").of(built.eval())
    write(function, "torch", tmp_path / "ood.pt2", {"input": function.takes})
    extra = {"facts.json": ""}
    program = torch.export.load(tmp_path / "ood.pt2", extra_files=extra).module()
    for n in (1, 5):
        with torch.no_grad():
            assert torch.equal(program(function.example(n)), built.ood_score(function.example(n)))
    assert (tmp_path / "ood.pt2").stat().st_size < built.replay.nbytes
    assert len(built.replay) == 1000, "the method itself is as it was"
    assert json.loads(extra["facts.json"])["input"].startswith("images float32 (batch, 1, 8, 8) in [-1, 1]")


def test_what_cannot_be_traced_is_one_sentence(tmp_path):
    method = vae()
    method.energy = lambda x: x.flatten(1).sum(1) if x.sum() > 0 else -x.flatten(1).sum(1)
    with pytest.raises(UserError, match=r"^what: the energy of a VAE cannot be exported"):
        write(Choice("energy").of(method), "torch", tmp_path / "e.pt2", {})
    assert not list(tmp_path.iterdir())


@pytest.fixture
def checkpoint(tmp_path):
    model = read_config(ROOT / "configs" / "vae" / "digits.yaml")["model"]
    text = yaml.safe_dump({"model": model})
    keep = LastCheckpoint(tmp_path, text)
    fit = trainer(tmp_path, callbacks=[keep], enable_checkpointing=True, max_steps=1)
    fit.fit(build_model(text), TinyData(n=8))
    return tmp_path / "last.ckpt"


def test_the_command_states_range_and_metadata(checkpoint, tmp_path, capsys, monkeypatch):
    out = tmp_path / "g.onnx"
    line = ["export", "--ckpt_path", str(checkpoint), "--what", "generator", "--out", str(out)]
    main(line)
    told = capsys.readouterr().out
    facts = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    for key in ("input", "output"):
        assert f"{facts[key]}\n" in told
    assert facts["input"].endswith("z ~ N(0, I)")
    assert "in [-1, 1]" in facts["output"]
    assert (facts["method"], facts["weights"], facts["what"]) == ("VAE", "ema", "generator")
    z = Choice("generator").of(load(checkpoint))
    with torch.no_grad():
        assert not differs(of_runtime(out, z, 4), z(z.example(4)))
    assert "would be overwritten" in fails(capsys, *line)
    monkeypatch.setattr("ebmzoo.commands.exporting.formats.find_spec", lambda name: None)
    sentence = fails(capsys, *line, "--overwrite")
    assert "format onnx needs onnx and onnxscript: run `pip install 'ebmzoo[onnx]'`" in sentence


@pytest.mark.parametrize("word", ["separate", "joined"])
def test_a_model_that_comes_with_the_package_is_exported_by_its_name(word, tmp_path, capsys):
    out = tmp_path / "e.pt2"
    named = ["--pretrained", "dual_mcmc_digits"] if word == "separate" else ["--pretrained=dual_mcmc_digits"]
    main(["export", *named, "--format", "torch", "--out", str(out)])
    extra = {"facts.json": ""}
    program = torch.export.load(out, extra_files=extra).module()
    x = torch.rand(3, 1, 8, 8) * 2 - 1
    with torch.no_grad():
        assert not differs(program(x), pretrained("dual_mcmc_digits").energy(x))
    facts = json.loads(extra["facts.json"])
    assert (facts["method"], len(facts["checkpoint_sha256"])) == ("DualMCMC", 64)
    assert "did you mean 'vae_digits'?" in fails(capsys, "export", "--pretrained", "vae_digit", "--out", out)
    both = ("export", "--pretrained", "vae_digits", "--ckpt_path", "x.ckpt", "--out", tmp_path / "x.pt2")
    assert "--pretrained and --ckpt_path both name a model" in fails(capsys, *both)
    raw = ("export", "--pretrained", "vae_digits", "--weights", "raw", "--out", tmp_path / "x.pt2")
    assert "a shared model has the averaged weights alone" in fails(capsys, *raw)
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    assert "--pretrained" in capsys.readouterr().out


def given(function, n=5):
    with torch.no_grad():
        return function(function.example(n))


def test_the_energy_of_a_class_is_that_which_its_samples_are_drawn_from(tmp_path):
    """Against the network itself: CDRL's takes the class, and JEM's logits are its energies."""
    built = cdrl(classes=3).eval()
    for parameter in built.averages.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    x, net = Choice("energy").of(built).example(5), built.network("energy_net")
    for level in (None, 1):
        of_class = [given(Choice("energy", level, label=k).of(built)) for k in range(3)]
        i = torch.full((5,), (level or 0) + 1)
        y, time = built.schedule.scale(i)[:, None, None, None] * x, built.schedule.time[i - 1]
        for k, found in enumerate(of_class):
            with torch.no_grad():
                expected = net(y, time, torch.full((5,), k)) / built.chain.unit(built.schedule, i)
            assert not differs(found, expected, 1e-6)
        assert differs(of_class[0], of_class[1])
        assert differs(of_class[0], given(Choice("energy", level).of(built)))
    classifier = jem().eval()
    for k in range(classifier.classes):
        with torch.no_grad():
            expected = -classifier.class_logits(x)[:, k]
        assert not differs(given(Choice("energy", label=k).of(classifier)), expected, 1e-5)
    for method in (built, classifier):
        function = Choice("energy", label=1).of(method)
        write(function, "onnx", tmp_path / "e.onnx", {})
        for n in (1, 5):
            assert not differs(of_runtime(tmp_path / "e.onnx", function, n), given(function, n))


def test_a_class_that_an_energy_has_not_is_one_sentence():
    for method, label in ((cdrl(classes=3), 3), (cdrl(), 0), (liebm(), 0), (jem(), -1)):
        with pytest.raises(UserError, match=rf"^class is {label}, but the energy of this \w+ has \d+ classes"):
            Choice("energy", label=label).of(method)
    with pytest.raises(UserError, match="class is cat, which only --what energy has, not ood"):
        Choice("ood", label=0, class_name="cat").of(cdrl(classes=3))


def test_the_command_takes_a_class_by_name(tmp_path, capsys):
    classes = {"energy_net": {"classes": 10}}
    model = read_config(ROOT / "configs" / "cdrl" / "digits.yaml")["model"]
    model["init_args"]["energy_net"]["init_args"] |= classes["energy_net"]
    method = saved_run(tmp_path / "run", "cdrl_digits", model=model)
    line = ["export", "--ckpt_path", str(tmp_path / "run" / "last.ckpt"), "--format", "torch"]
    main([*line, "--class", "7", "--out", str(tmp_path / "seven.pt2")])
    assert "given the class 7" in capsys.readouterr().out
    extra = {"facts.json": ""}
    program = torch.export.load(tmp_path / "seven.pt2", extra_files=extra).module()
    x = torch.rand(2, 1, 8, 8) * 2 - 1
    with torch.no_grad():
        assert not differs(program(x), method.class_energy(x, 7))
    assert json.loads(extra["facts.json"])["class"] == "7"
    assert "only 0 to 9" in fails(capsys, *line, "--class", "dog", "--out", tmp_path / "dog.pt2")
    none = ("export", "--pretrained", "dual_mcmc_digits", "--class", "3", "--out", tmp_path / "x.onnx")
    assert "class is 3, but this DualMCMC was trained without classes" in fails(capsys, *none)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "seven.pt2"}
