"""Our paper-size networks compute what the authors' networks compute, at equal weights: 1e-9 in float64.

`PYTHONPATH=tests python tests/commands/test_parity.py` prints the relative errors, the table of docs/fidelity.md.
"""

import math

import pytest
import torch

from ebmzoo.commands.importing.key_maps import (
    CLEL_ENCODER,
    CLEL_ENERGY,
    DUAL_MCMC_ENERGY,
    DUAL_MCMC_GENERATOR,
    DUAL_MCMC_INFERENCE,
    cdrl_energy,
    cdrl_initializer,
    renamed,
)
from ebmzoo.training.config import build_model
from ebmzoo.training.config_files import named_config
from support import parity

TOLERANCE = 1e-9


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def filled(config, network, authors, key_map):
    """The network of a paper-size configuration at the rule's weights, and the authors' numbers."""
    net = getattr(build_model(named_config(config)), network).double().eval()
    weights = renamed(parity.state(authors), key_map)
    own = net.state_dict()
    assert weights.keys() == own.keys()
    net.load_state_dict({name: value.reshape(own[name].shape) for name, value in weights.items()})
    return net, parity.outputs(authors)


ERRORS = {}
"""The greatest relative error of each comparison so far, for the table."""


def same(ours, theirs, what):
    theirs = theirs.reshape(ours.shape)
    ERRORS[what] = float(((ours - theirs).abs().max() / theirs.abs().max()).detach())
    assert ERRORS[what] <= TOLERANCE, what


def gradient(energy, x):
    (found,) = torch.autograd.grad(energy.sum(), x, retain_graph=True)
    return found


def time(logsnr):
    """What our networks take for a level of log-SNR λ: 2000/π · atan(e^(−λ/2))."""
    return 2000 / math.pi * torch.atan(torch.exp(-logsnr / 2))


@pytest.mark.parametrize(
    ("config", "authors"), [("clel_cifar", "clel_ebm_base"), ("clel_large_cifar", "clel_ebm_large")]
)
def test_clel_energy(config, authors):
    net, theirs = filled(config, "energy_net", authors, CLEL_ENERGY)
    x = theirs["x01"].requires_grad_()
    f = net.features(x)
    energy = net.marginal(f)
    same(f, theirs["f"], f"{config}: f(x)")
    same(energy, theirs["energy"], f"{config}: E(x) = |f(x)|²/2")
    same(net.project(f), theirs["projection"], f"{config}: g(f(x))")
    same(gradient(energy, x), theirs["gradient"], f"{config}: ∇E(x)")


def test_clel_encoder():
    net, theirs = filled("clel_cifar", "encoder", "clel_encoder", CLEL_ENCODER)
    same(net(2 * theirs["x01"] - 1), theirs["h"], "clel_cifar: h(x)")


def test_cdrl_energy_has_the_other_sign():
    net, theirs = filled("cdrl_cifar", "energy_net", "cdrl_ebm_n8", cdrl_energy(8))
    x = theirs["x"].requires_grad_()
    energy = net(x, time(theirs["logsnr"]))
    same(-energy, theirs["f"], "cdrl_cifar: −Ê(x, t)")
    same(-gradient(energy, x), theirs["gradient"], "cdrl_cifar: −∇Ê(x, t)")


def test_cdrl_initializer():
    net, theirs = filled("cdrl_cifar", "initializer", "cdrl_initializer", cdrl_initializer(3, 3, (1, 2)))
    ours = theirs["x"] + net(theirs["x"], time(theirs["logsnr"]))
    same(ours, theirs["out"], "cdrl_cifar: x + U(x, t)")


def test_the_schedule_gives_networks_that_time():
    schedule = build_model(named_config("cdrl_cifar")).schedule
    theirs = parity.outputs("cdrl_ebm_n8")
    levels = theirs["level"].long()
    torch.testing.assert_close(schedule.time[levels - 1].double(), time(theirs["logsnr"]), rtol=1e-5, atol=0)


def test_dual_mcmc():
    net, theirs = filled("dual_mcmc_cifar", "energy_net", "dual_mcmc_e", DUAL_MCMC_ENERGY)
    x = theirs["x"].requires_grad_()
    energy = net(x)
    same(energy, theirs["netE"], "dual_mcmc_cifar: E(x)")
    same(gradient(energy, x), theirs["gradient"], "dual_mcmc_cifar: ∇E(x)")

    net, theirs = filled("dual_mcmc_cifar", "generator", "dual_mcmc_g", DUAL_MCMC_GENERATOR)
    same(net(theirs["z"].flatten(1)), theirs["image"], "dual_mcmc_cifar: G(z)")

    net, theirs = filled("dual_mcmc_cifar", "inference", "dual_mcmc_i", DUAL_MCMC_INFERENCE)
    mu, logvar = net(theirs["x"])
    same(mu, theirs["mu"], "dual_mcmc_cifar: μ(x)")
    same(logvar, theirs["logvar"], "dual_mcmc_cifar: logvar(x)")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in (("clel_cifar", "clel_ebm_base"), ("clel_large_cifar", "clel_ebm_large")):
        test_clel_energy(*case)
    for compare in (test_clel_encoder, test_cdrl_energy_has_the_other_sign, test_cdrl_initializer, test_dual_mcmc):
        compare()
    for what, error in ERRORS.items():
        print(f"| {what} | {error:.1e} |")
