"""`ebmzoo import` fills our networks from files with the names and shapes that the authors publish."""

import json
import shutil
from functools import cache

import numpy as np
import pytest
import torch
import yaml

from ebmzoo import UserError, load
from ebmzoo.commands.cli import main
from ebmzoo.commands.importing import command
from ebmzoo.commands.importing.command import import_checkpoint
from ebmzoo.commands.importing.key_maps import CLEL_ENERGY, DUAL_MCMC_ENERGY
from ebmzoo.commands.importing.layouts import LAYOUTS
from ebmzoo.training.config import build_model
from ebmzoo.training.config_files import named_config
from ebmzoo.training.migration import KEY
from support import parity


@pytest.fixture(autouse=True)
def no_dashboard(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")


@cache
def single(network):
    return {
        name: value.float() if value.is_floating_point() else value for name, value in parity.state(network).items()
    }


def with_prefix(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def dual_mcmc():
    return {"netE": {**single("dual_mcmc_e")}, "netG": {**single("dual_mcmc_g")}, "netI": {**single("dual_mcmc_i")}}


def clel():
    model = {}
    for name, network in (("ebm.", "clel_ebm_base"), ("encoder.", "clel_encoder")):
        live = single(network)
        model |= with_prefix(name, live)
        model |= with_prefix(f"ema_{name}", {k: 2 * v if v.is_floating_point() else v for k, v in live.items()})
    return {"model": model | {"sampler.memory": torch.zeros(4)}, "optimizers": [], "engine": {"iteration": 1}}


def cdrl(prefix="module."):
    energy, initializer = single("cdrl_ebm_n8"), single("cdrl_initializer")
    return {
        "p_state_dict": with_prefix(prefix, energy),
        "pi_state_dict": with_prefix(prefix, initializer),
        "p_ema_state_dict": energy,
        "pi_ema_state_dict": initializer,
        "p_optimizer_state_dict": {"state": {}},
    }


def imported(tmp_path, contents, name):
    torch.save(contents, tmp_path / "published.pth")
    return import_checkpoint(tmp_path / "published.pth", name, tmp_path / "run")


def test_dual_mcmc_is_imported(tmp_path, capsys):
    torch.save(dual_mcmc(), tmp_path / "published.pth")
    main(["import", str(tmp_path / "published.pth"), "--as", "dual_mcmc_cifar", "--out", str(tmp_path / "run")])
    path = tmp_path / "run" / "last.ckpt"
    assert f"ebmzoo test --ckpt_path {path}" in capsys.readouterr().out
    method, energy = load(path), single("dual_mcmc_e")
    for network in (method.energy_net, method.network("energy_net")):
        assert all(torch.equal(network.state_dict()[DUAL_MCMC_ENERGY(k)], value) for k, value in energy.items())
    theirs, generator = parity.outputs("dual_mcmc_g"), method.network("generator").eval()
    torch.testing.assert_close(generator(theirs["z"].flatten(1).float()).double(), theirs["image"], atol=1e-4, rtol=0)


def test_averages_of_clel_are_kept_apart_from_its_live_weights(tmp_path):
    method = load(imported(tmp_path, clel(), "clel_cifar"))
    live, average = method.energy_net.state_dict(), method.network("energy_net").state_dict()
    for key, value in single("clel_ebm_base").items():
        name = CLEL_ENERGY(key)
        assert torch.equal(live[name], value.reshape(live[name].shape)), key
        assert torch.equal(average[name], 2 * value.reshape(live[name].shape)), key


def test_names_of_data_parallel_training_are_understood(tmp_path):
    path = imported(tmp_path, cdrl(), "cdrl_cifar")
    main(["sample", "--ckpt_path", str(path), "--n", "1", "--steps", "0", "--out", str(tmp_path / "x.png")])
    assert (tmp_path / "x.png").exists()
    with_prefixes = load(path).state_dict()
    shutil.rmtree(tmp_path / "run")
    without = load(imported(tmp_path, cdrl(prefix=""), "cdrl_cifar")).state_dict()
    assert all(torch.equal(value, without[name]) for name, value in with_prefixes.items())


def test_the_checkpoint_names_its_source(tmp_path):
    path = imported(tmp_path, dual_mcmc(), "dual_mcmc_cifar")
    own = torch.load(path, weights_only=True)[KEY]["imported"]
    assert own == {"file": "published.pth", "as": "dual_mcmc_cifar", "source": "jcui1224/dual-MCMC @ aac3c4c"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda file: file["netE"].pop("lin_5.weight_orig"), ["energy_net.trunk.last", "is missing"]),
        (lambda file: file["netG"].update({"extra.weight": torch.zeros(1)}), ["netG", "'extra.weight'"]),
        (lambda file: file["netI"].update({"conv51.bias": torch.zeros(7)}), ["(7,)", "(128,)"]),
        (lambda file: file.pop("netE"), ["has no 'netE'", "netG, netI"]),
    ],
)
def test_mismatches_are_listed(tmp_path, change, words):
    contents = dual_mcmc()
    change(contents)
    with pytest.raises(UserError) as caught:
        imported(tmp_path, contents, "dual_mcmc_cifar")
    assert all(word in str(caught.value) for word in ["published.pth does not fit dual_mcmc_cifar", *words]), (
        caught.value
    )
    assert not (tmp_path / "run").exists()


def test_the_best_fitting_layout_is_suggested(tmp_path):
    with pytest.raises(UserError, match="it fits --as clel_cifar better"):
        imported(tmp_path, clel(), "clel_large_cifar")


def test_code_in_a_file_is_refused(tmp_path):
    torch.save({"netE": print}, tmp_path / "published.pth")
    with pytest.raises(UserError, match="is refused"):
        import_checkpoint(tmp_path / "published.pth", "dual_mcmc_cifar", tmp_path / "run")


def test_a_run_is_not_overwritten(tmp_path):
    imported(tmp_path, dual_mcmc(), "dual_mcmc_cifar")
    with pytest.raises(UserError, match="holds a run already"):
        imported(tmp_path, dual_mcmc(), "dual_mcmc_cifar")
    (tmp_path / "run" / "last.ckpt").unlink()  # as in the folder of a run that has not saved a checkpoint yet
    with pytest.raises(UserError, match="holds a run already"):
        imported(tmp_path, dual_mcmc(), "dual_mcmc_cifar")


# ── the evaluation, on networks of a small width ────────────────────────────────────────────────────────────────────


@pytest.fixture
def narrow(monkeypatch, tmp_path):
    """The paper-size configurations with narrow networks of the same structure, and few images of a folder."""
    small = {"width": 8, "hidden": 8, "latent": 4, "embedding": 16, "groups": 4, "steps": 1, "replay_size": 20, "n": 12}
    np.savez(tmp_path / "images.npz", images=np.random.RandomState(0).randint(0, 256, (40, 32, 32, 3), dtype=np.uint8))

    def shrunk(node):
        if isinstance(node, dict):
            return {key: small[key] if key in small else shrunk(value) for key, value in node.items()}
        return [shrunk(value) for value in node] if isinstance(node, list) else node

    def config(name):
        found = shrunk(yaml.safe_load(named_config(name)))
        found["data"] = {"class_path": "ebmzoo.data.ImageFolder"}
        found["data"]["init_args"] = {"path": str(tmp_path / "images.npz"), "size": 32, "channels": 3, "batch_size": 8}
        few = {"n": 12, "batch_size": 6, "extractors": []}
        found["tasks"] = [{"class_path": "ebmzoo.tasks.Generation", "init_args": few}]
        found["trainer"] |= {"precision": "32-true", "accelerator": "cpu", "enable_progress_bar": False}
        return yaml.safe_dump(found)

    monkeypatch.setattr(command, "named_config", config)
    return config


def published(config, name, swapped=False):
    """A file as the authors write it, with networks of our configuration: each part under the authors' names."""
    method, found = build_model(config(name)), {}
    theirs = {
        "energy_net": {"dual": "dual_mcmc_e", "clel": "clel_ebm_base", "cdrl": "cdrl_ebm_n8"}[name.split("_")[0]],
        "generator": "dual_mcmc_g",
        "inference": "dual_mcmc_i",
        "encoder": "clel_encoder",
        "initializer": "cdrl_initializer",
    }
    for part in LAYOUTS[name].parts:
        own = getattr(method, part.network).state_dict()
        state = {key: own[part.key_map(key)] for key, _ in parity.keys(theirs[part.network])}
        section = part.sections[-1 if swapped else 0][0]
        if part.prefix:
            found.setdefault(section, {}).update(with_prefix(part.prefix, state))
            found[section].update(with_prefix(part.average_prefix, state))
        else:
            found[section] = state
        if "pi_state" in section or "p_state" in section:
            parameters = [0.9 * value for key, value in state.items() if not key.endswith(("_u", "_v"))]
            average = {"decay": 0.9999, "num_updates": 9, "shadow_params": parameters, "collected_params": None}
            found[section.replace("_state", "_ema_state")] = average
    return found


@pytest.mark.parametrize(
    ("name", "evaluation", "nfe"),
    [
        ("dual_mcmc_cifar", "library", 2),
        ("dual_mcmc_cifar", "paper", 71),
        ("clel_cifar", "library", 10),
        ("clel_cifar", "paper", 10),
        ("cdrl_cifar", "library", 13),
    ],
)
def test_an_imported_checkpoint_is_tested_end_to_end(narrow, tmp_path, name, evaluation, nfe):
    torch.save(published(narrow, name), tmp_path / "published.pth")
    run = tmp_path / "run"
    main(["import", str(tmp_path / "published.pth"), "--as", name, "--out", str(run), "--evaluation", evaluation])
    main(["test", "--ckpt_path", str(run / "last.ckpt"), "--only", "config"])
    result = json.loads((run / "test" / "generation.json").read_text())
    assert result["figures"]["nfe"] == nfe
    assert result["protocol"]["n"] == 12
    assert getattr(load(run / "last.ckpt"), "evaluation", "library") == evaluation


def test_the_evaluation_of_any_checkpoint_can_be_the_paper_s(narrow, tmp_path, capsys):
    torch.save(published(narrow, "dual_mcmc_cifar"), tmp_path / "published.pth")
    path = str(import_checkpoint(tmp_path / "published.pth", "dual_mcmc_cifar", tmp_path / "run"))
    main(["sample", "--ckpt_path", path, "--n", "2", "--evaluation", "paper", "--out", str(tmp_path / "x.png")])
    assert "NFE 71" in capsys.readouterr().out
    main(["test", "--ckpt_path", path, "--model.evaluation", "paper", "--only", "config"])
    assert "71" in capsys.readouterr().out
    torch.save(published(narrow, "cdrl_cifar"), tmp_path / "published.pth")
    with pytest.raises(UserError, match="evaluates as the library does; leave --evaluation out"):
        import_checkpoint(tmp_path / "published.pth", "cdrl_cifar", tmp_path / "other", "paper")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("swapped", [False, True])
def test_the_energy_of_cdrl_is_found_and_its_averages_are_torch_ema_s(narrow, tmp_path, swapped):
    """In the released code `pi` is the energy; averages are lists in the order of the parameters."""
    file = published(narrow, "cdrl_cifar", swapped)
    torch.save(file, tmp_path / "published.pth")
    method = load(import_checkpoint(tmp_path / "published.pth", "cdrl_cifar", tmp_path / "run"))
    for network in ("energy_net", "initializer"):
        average = method.averages[network]
        for (name, live), kept in zip(
            getattr(method, network).named_parameters(), average.module.parameters(), strict=True
        ):
            torch.testing.assert_close(kept, 0.9 * live, msg=name)
        assert int(average.n_averaged) == 89_990  # past the warm-up
    file["pi_ema_state_dict"]["shadow_params"].pop()
    torch.save(file, tmp_path / "published.pth")
    with pytest.raises(
        UserError, match=r"'pi_ema_state_dict' has \d+ averages, and 'pi_state_dict' has \d+ parameters"
    ):
        import_checkpoint(tmp_path / "published.pth", "cdrl_cifar", tmp_path / "other")
