"""`ebmzoo estimate`: arithmetic, memory, phases and hours follow from exact laws, and the table in the docs agrees."""

import re
from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import ebmzoo.data
from ebmzoo.commands.cli import main
from ebmzoo.commands.estimate import iterations
from ebmzoo.commands.estimate.command import gpu_configs, of_config
from ebmzoo.commands.estimate.counting import CostMode
from ebmzoo.commands.estimate.devices import Device
from ebmzoo.commands.estimate.estimate import Estimate, iterations_of, training_images
from ebmzoo.commands.estimate.evaluation import sampling_cost
from ebmzoo.commands.estimate.fake import UnstartedTrainer
from ebmzoo.commands.estimate.iterations import IterationCost, Phase, faked, iteration_cost, phases
from ebmzoo.commands.estimate.page import row, text
from ebmzoo.commands.estimate.rate import measured
from ebmzoo.data import Digits, ImageData
from ebmzoo.methods import DenoisingEBMLearning, RecoveryChain
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.posterior import PosteriorSampler
from support.command_line import fails
from support.family import FAMILY
from support.paths import ROOT
from support.tiny import cdrl, denoising_ebm, dual_mcmc, liebm, without_latent

pytestmark = pytest.mark.usefixtures("fakes_collected")

BATCH = (8, 1, 8, 8)


def trainer(iterations=100, an_epoch=10, **settings):
    return UnstartedTrainer(iterations, an_epoch, accelerator="cpu", max_epochs=1000, **settings)


def cost_of(method, step=0, short=True, **settings):
    """What one iteration costs, with shortened chains or whole ones."""
    own = trainer(**settings)
    chains = iterations.short_chains if short else lambda _: nullcontext()
    with patch.object(iterations, "short_chains", chains), faked(method, own) as cost:
        own.go_to(step)
        return iteration_cost(method, own, cost, BATCH, BATCH[:1])


def test_a_product_and_a_sum_are_two_flop_forwards_and_in_autograd_grad():
    with FakeTensorMode(), CostMode() as cost:
        weight = torch.empty(5, 3, 3, 3)
        x = torch.empty(2, 3, 8, 8, requires_grad=True)
        y = nn.functional.conv2d(x, weight, padding=1)
        assert cost.flop == {torch.float32: 2 * 2 * 5 * 3 * 9 * 64}
        torch.autograd.grad(y.sum(), x)
        assert cost.total == 2 * (2 * 2 * 5 * 3 * 9 * 64)
        torch.empty(4, 6, dtype=torch.bfloat16) @ torch.empty(6, 7, dtype=torch.bfloat16)
        assert cost.flop[torch.bfloat16] == 2 * 4 * 6 * 7


def test_the_peak_is_that_of_the_tensors_that_live_at_once():
    kib = 256  # numbers of fp32
    with FakeTensorMode(), CostMode() as cost:
        a = torch.empty(kib)
        for _ in range(3):
            b = a + 1  # the one before lives until this one is made
        assert (cost.now, cost.peak) == (2 * 1024, 3 * 1024)
        a.add_(1)
        a.view(16, 16)
        assert cost.peak == 3 * 1024, "a change in place and a view take nothing"
        del b
        assert cost.now == 1024
        cost.forget_peak()
        torch.empty(1)
        assert cost.peak == 1024 + 512, "CUDA gives blocks of 512 bytes"


LONG = {
    "LIEBM": lambda: without_latent(sampler=Langevin(6, 0.1, 0.01)),
    "CDRL": lambda: cdrl(chain=RecoveryChain(6)),
    "Dual-MCMC": lambda: dual_mcmc(posterior=PosteriorSampler(Langevin(5, 0.005, 0.1))),
}


@pytest.mark.parametrize("make", LONG.values(), ids=LONG)
def test_shortened_chains_cost_what_whole_ones_do(make):
    short, whole = cost_of(make()), cost_of(make(), short=False)
    assert short.flop == whole.flop
    assert short.peak == whole.peak


def test_accumulation_and_optimizers_count():
    once = cost_of(without_latent())
    assert once.steps == 1
    assert cost_of(denoising_ebm(learning=DenoisingEBMLearning(2, warmup=0))).steps == 3
    state = sum(p.numel() for p in without_latent().trained_networks()["energy_net"].network.parameters())
    assert once.peak > 4 * 4 * state, "weights, their average, and two moments of Adam"


def test_phases_are_found_by_bisection():
    own, method = trainer(iterations=70, an_epoch=10), liebm()  # one epoch of the encoder
    with own.attached(method):
        found = phases(method, own)
    assert [(phase.first, phase.iterations) for phase in found] == [(0, 10), (10, 60)]
    endless = trainer(iterations=None)
    with endless.attached(method):
        assert [phase.iterations for phase in phases(method, endless)] == [10, None]


def test_a_sample_s_cost_is_known_from_short_chains():
    """But for spectral norms, which are computed once a chain and here have a share of 0.1 %."""
    method = FAMILY["CLEL"]()
    with faked(method, trainer()) as cost, method.evaluating():
        found = sampling_cost(method, cost)
        for asked in (None, 5):
            before = cost.total
            method.sample(2, steps=asked)
            assert sum(found.of(asked).values()) == pytest.approx((cost.total - before) / 2, rel=2e-3)


def of_two_phases(peak=40e9, smaller=(50, 25e9), steps=1):
    costs = [IterationCost({torch.bfloat16: 2 * 10**12}, peak, steps), IterationCost({torch.float32: 10**12}, 1, 1)]
    parts = (Phase("a", 0, 1000), costs[0]), (Phase("b", 1000, 500), costs[1])
    return Estimate({"net": 7}, 100, parts, smaller, None)


def test_schedule_hours_and_memory_follow():
    made, device = of_two_phases(), Device("a", 1e12, 1e11, 20e9, "here")
    assert made.schedule == {torch.bfloat16: 2 * 10**15, torch.float32: 5 * 10**14}
    assert device.hours(made.schedule, 0.5) == pytest.approx((4000 + 10000) / 3600)
    assert made.peak_of(25) == pytest.approx(17.5e9)
    assert made.fitting(device) == (25, 4), "17.5 GB is at most 90 % of 20"
    assert made.fitting(Device("b", 1, 1, 10e9, "")) is None, "10 GB do not depend on the batch"
    assert "--data.batch_size 25 --trainer.accumulate_grad_batches 4" in text(made, [device], 1.0)
    assert "cannot accumulate" in text(of_two_phases(steps=2), [device], 1.0)
    assert "not even a batch of 1" in text(made, [Device("b", 1, 1, 10e9, "")], 1.0)


def test_the_length_of_a_run():
    assert iterations_of({"max_steps": 7, "max_epochs": 3}, 2) == 6
    assert iterations_of({"max_steps": -1, "max_epochs": 3}, None) is None
    assert iterations_of({"max_steps": 7, "max_epochs": None}, None) == 7
    assert training_images(Digits()) == 1500
    assert training_images(Digits(max_train=100)) == 100
    assert training_images(Digits(val_fraction=0.1)) == 1350
    assert len(Digits(val_fraction=0.1).train_set) == 1350


def test_data_sets_state_how_many_images_they_train_on():
    kinds = [kind for kind in vars(ebmzoo.data).values() if isinstance(kind, type) and issubclass(kind, ImageData)]
    stated = [kind for kind in kinds if kind.n_train is not None]
    assert len(stated) >= 8
    for kind in stated:
        assert f"{kind.n_train:,}" in kind.__doc__, kind


def test_the_command_prints_an_estimate(capsys):
    main(["estimate", "--config", "dual_mcmc_digits", "--data.batch_size", "50"])
    told = capsys.readouterr().out
    assert "nothing of the run was run" in told
    assert "iterations of 50 images" in told
    assert re.search(r"test, generation: [\d.]+ [MGT]FLOP", told)
    for name in ("H200", "A100 80 GB", "RTX 4090", "RTX 3090"):
        assert f"{name} (" in told


def test_the_rate_of_this_machine_is_measured():
    device = measured((1, 8, 4, 4))
    assert device.fp32 > 0
    assert device.bf16 > 0


@pytest.mark.parametrize(
    ("args", "what"),
    [
        ([], "name a config"),
        (["--config", "liebm_cifra"], "liebm_cifar"),
        (["--config", "vae_digits", "--fraction", "0"], "fraction is 0"),
        (["--config", "vae_digits", "--images", "0"], "images is 0"),
        (["--config", "vae_digits", "--model.sigmaa", "1"], "sigmaa"),
    ],
)
def test_errors_are_one_sentence(args, what, capsys):
    assert what in fails(capsys, "estimate", *args)


def rows_of_the_page():
    lines = (ROOT / "docs" / "estimates.md").read_text().splitlines()
    return {name[1]: line for line in lines if (name := re.match(r"\| `(\w+)` \|", line))}


def test_the_page_has_every_config_for_a_gpu():
    assert list(rows_of_the_page()) == gpu_configs()


@pytest.mark.parametrize("name", ["vae_cifar", "liebm_cifar"])
def test_the_page_states_what_the_command_counts(name):
    assert rows_of_the_page()[name] == row(name, of_config(name), 0.3)
