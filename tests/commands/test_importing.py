"""`ebmzoo import` fills our networks from files with the names and shapes that the authors publish."""

from functools import cache

import pytest
import torch

from ebmzoo import UserError, load
from ebmzoo.cli import main
from ebmzoo.commands.importing.command import import_checkpoint
from ebmzoo.commands.importing.key_maps import CLEL_ENERGY, DUAL_MCMC_ENERGY
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
    (tmp_path / "run" / "last.ckpt").unlink()
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
