"""The benchmark at a size that says nothing of speed: that all of it runs, and that chains agree."""

import json

import pytest
import torch
from torch import nn

from ebmzoo.methods import LIEBM
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.training.config_files import config_path, read_config
from profiling.__main__ import main
from profiling.ceiling import flops
from profiling.chains import chains, disagreement, plain
from profiling.iterations import (
    contrastive_divergence,
    disagreement_of_losses,
    losses,
    of_method,
    of_schedule,
)
from profiling.networks import energies
from profiling.report import rows
from profiling.timing import Timed, in_turn


def test_contenders_take_turns_and_ratios_are_within_a_round():
    order, seconds = [], iter([9.0, 9.0, 1.0, 2.0, 10.0, 20.0, 3.0, 6.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("profiling.timing.once", lambda work, device: (work(), next(seconds))[1])
        works = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
        timed = in_turn(works, 3, torch.device("cpu"), per=2)
    assert order == ["a", "b"] * 4
    assert timed["a"].seconds == (0.5, 5.0, 1.5)
    assert (timed["a"].median, timed["a"].spread) == (1.5, (0.5, 5.0))
    assert timed["b"].over(timed["a"]) == 2.0


def test_chains_of_equal_seeds_agree_with_the_plain_loop_and_a_wrong_one_is_told():
    torch.manual_seed(0)
    for name, net in energies(tiny=True).items():
        x = torch.rand(3, 3, 32, 32) * 2 - 1
        far = disagreement(net.eval(), x, 2)
        assert {"plain loop", "ebmzoo"} <= set(far), name
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("profiling.chains.with_ebmzoo", lambda net, x, sampler: Langevin(1, 1.0, 0.01)(net, x))
        with pytest.raises(AssertionError, match="ebmzoo"):
            disagreement(net, x, 2)


def test_contrastive_divergences_of_equal_seeds_agree_in_loss_and_gradient():
    torch.manual_seed(0)
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    for name, net in energies(tiny=True).items():
        far = disagreement_of_losses(net.eval(), x, 2)
        assert set(far) == {key for key in losses(net, x, 2) if not key.endswith("bf16")}, name


@pytest.mark.parametrize("fault", ["chains from noise", "no gradient of the data's energies"])
def test_a_contrastive_divergence_that_differs_is_told(fault, monkeypatch):
    torch.manual_seed(0)
    net, x = energies(tiny=True)["LIEBM"].eval(), torch.rand(3, 3, 32, 32) * 2 - 1
    wrong = {
        "chains from noise": lambda: net(x).mean() - net(plain(net, torch.randn_like(x), 2)).mean(),
        "no gradient of the data's energies": lambda: net(x).mean().detach() - net(plain(net, x, 2)).mean(),
    }
    monkeypatch.setattr("profiling.iterations._ebmzoo", lambda *args: wrong[fault])
    with pytest.raises(AssertionError, match="ebmzoo, fp32"):
        disagreement_of_losses(net, x, 2)


def test_an_iteration_of_contrastive_divergence_descends_the_gradient_of_its_loss_alone():
    """And not what chains leave on the weights."""
    torch.manual_seed(0)
    net, x = energies(tiny=True)["LIEBM"].eval(), torch.rand(3, 3, 32, 32) * 2 - 1
    torch.manual_seed(0)
    want = torch.autograd.grad(losses(net, x, 2)["plain loop"](), list(net.parameters()), materialize_grads=True)
    unit = torch.autograd.grad(net(x).mean(), list(net.parameters()), materialize_grads=True)
    for name, work in contrastive_divergence(net, x, 2).items():
        with pytest.MonkeyPatch.context() as patch:
            seen = []
            patch.setattr(torch.optim.Adam, "step", lambda self, seen=seen: seen.append(self.param_groups[0]["params"]))
            torch.manual_seed(0)
            work()
        within = 1e-1 if name.endswith("bf16") else 1e-5
        got = [torch.zeros_like(p) if p.grad is None else p.grad for p in seen[0]]
        off = sum((p - g).square().sum() for p, g in zip(got, want, strict=True)).sqrt()
        assert off <= within * sum(g.square().sum() for g in unit).sqrt(), name


def test_the_plain_loop_is_langevin():
    x = torch.ones(2, 1, 4, 4)

    class Square(nn.Module):
        def forward(self, x):
            return x.square().sum((1, 2, 3)) / 2

    assert torch.allclose(plain(Square(), x, 3, 0.5, 0.0), x / 8)


def test_a_convolution_s_arithmetic_is_counted_forward_and_in_its_input_alone():
    class Energy(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 5, 3, padding=1)

        def forward(self, x):
            return self.conv(x).sum((1, 2, 3))

    assert flops(Energy(), torch.rand(3, 2, 8, 8)) == 2 * (2 * 3 * 2 * 5 * 9 * 64)


def test_rows_tell_ratios_and_what_the_sampler_adds():
    timed = {"plain loop": Timed((4.0,)), "ebmzoo, bf16": Timed((1.01,)), "network alone, bf16": Timed((1.0,))}
    head, *found = rows(timed, {"fp32": 2.0, "bf16": 0.5}, "plain loop")
    assert head[-1] == "over the network alone"
    assert [row[2] for row in found] == ["1.00", "3.96", "4.00"]
    assert [row[-2:] for row in found] == [["50%", "–"], ["50%", "+1.0%"], ["50%", "–"]]


def test_a_schedule_is_its_iterations_at_the_measured_speed(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("profiling.iterations.of_method", lambda *args: (asked.append(args[:2]), [9.0, 3.6, 1.0])[1])
    assert of_schedule(3, tmp_path) == pytest.approx({"simclr_cifar": 97.0, "liebm_cifar": 97.5})
    for config, batch in asked:
        data = read_config(config_path(config))["data"]["init_args"]
        assert data["batch_size"] == batch, config


def test_what_is_timed_of_liebm_s_run_is_the_energy_s_stage(tmp_path, monkeypatch):
    trained, iterate = [], LIEBM.iterate

    def watched(self, images, labels):
        trained.append(self.trains_energy)
        self.sampler = self.sampler.lasting(1)
        return iterate(self, images, labels)

    monkeypatch.setattr(LIEBM, "iterate", watched)
    assert len(of_method("liebm_cifar", 2, 1, "bf16-mixed", "ours", tmp_path)) == 1
    assert trained
    assert all(trained)


def test_all_of_it_runs(tmp_path, capsys):
    main(["--tiny", "--rounds", "1", "--batch", "4", "--out", str(tmp_path)])
    told = json.loads((tmp_path / "cpu.json").read_text()) if not torch.cuda.is_available() else None
    if told is not None:
        assert set(told) == {"machine", "steps", "iterations"}
        assert set(told["iterations"]) == {"contrastive divergence", "LIEBM"}
        assert set(told["steps"]["LIEBM"]["seconds"]) == set(chains(nn.Identity(), torch.rand(1, 3, 8, 8), 1))
        assert "| plain loop |" in (tmp_path / "cpu.md").read_text()
    assert "one Langevin step of CDRL" in capsys.readouterr().out
