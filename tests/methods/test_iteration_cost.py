"""What an iteration must not do: wait for the device, work twice, keep more than one step of a chain."""

import warnings
from collections import Counter
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

from ebmzoo import methods
from ebmzoo.energy import frozen, gradient
from ebmzoo.methods import Method, baselines
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.networks import SNGANEnergy
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.replay import ReplayBuffer
from ebmzoo.training.progress_bar import ProgressBar
from support.family import FAMILY
from support.tiny import TinyData, trainer, without_latent

WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero", "aten::masked_select"}
"""Operations whose result the host needs, so that on a GPU it waits for the device."""


class Waits(TorchDispatchMode):
    """Counts the operations for which the host would wait, but for those on the tensors `on_host`."""

    def __init__(self):
        super().__init__()
        self.seen, self.on_host = Counter(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        masked = name.startswith("aten::index") and any(
            isinstance(part, torch.Tensor) and part.dtype == torch.bool
            for arg in args
            if isinstance(arg, list | tuple)
            for part in arg
        )
        if (name in WAITS or masked) and args[0].data_ptr() not in self.on_host:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def second_stage(name):
    return 2 if name.startswith(("LIEBM", "Energy Matching")) else 1


def fitted(name, tmp_path, monkeypatch, around, **changes):
    """A short fit, in the energy's stage where there are two, with each `training_step` inside `around(method)`."""
    method, step = FAMILY[name](), Method.training_step

    def watched(self, batch, batch_idx):
        with around(self):
            step(self, batch, batch_idx)

    monkeypatch.setattr(Method, "training_step", watched)
    trainer(tmp_path, max_epochs=second_stage(name), **changes).fit(method, TinyData(n=16))
    return method


def test_the_family_is_whole():
    every = {c for m in (methods, baselines) for c in vars(m).values() if isinstance(c, type) and issubclass(c, Method)}
    concrete = {c for c in every if not getattr(c, "__abstractmethods__", None)}
    assert {type(make()) for make in FAMILY.values()} == concrete


CHAINS = {
    "VAE": 0,
    "Divergence Triangle": 0,
    "MDSM": 0,
    "EqM-E": 0,
    "EqM-E, l2": 0,
    "Energy Matching": 2,  # without noise and with it
    "score network": 0,
    "Dual-MCMC": 2,  # on images and on latents
    "Dual-MCMC, official": 3,  # and on images once more
    "Denoising-EBM": 2,  # on latents and on images
    "IGEBM": 2,  # the last step, which has no noise, is a chain of its own
}


@pytest.mark.parametrize("name", FAMILY)
def test_the_host_waits_once_a_chain(name, tmp_path, monkeypatch):
    """For the check that the chain is finite, and for nothing else: not the buffer, averages, norms or readings."""
    steps = []

    def around(method):
        steps.append(Waits())
        # Adam's count of steps is on the host, whatever its device
        states = [state for optimizer in method.trainer.optimizers for state in optimizer.state.values()]
        steps[-1].on_host = {state["step"].data_ptr() for state in states if "step" in state}
        return steps[-1]

    fitted(name, tmp_path, monkeypatch, around)
    chains = CHAINS.get(name, 1)
    assert steps[-1].seen == ({"aten::nonzero": chains} if chains else {})


def test_waits_are_seen():
    flags = torch.tensor([True, False])
    with Waits() as waits:
        float(torch.ones(()))
        flags.nonzero()
        flags[flags]
        nn.functional.one_hot(torch.tensor([1]))
    assert waits.seen["aten::_local_scalar_dense"] >= 2
    assert waits.seen["aten::nonzero"] == 1
    assert waits.seen["aten::index"] == 1


def test_the_bar_reads_once_a_second(tmp_path, monkeypatch):
    clock, waited = [0.0], []
    monkeypatch.setattr("ebmzoo.training.progress_bar.time.monotonic", lambda: clock[0])

    class Watched(ProgressBar):
        def on_train_batch_end(self, *args, **kwargs):
            clock[0] += 0.4
            with Waits() as waits:
                super().on_train_batch_end(*args, **kwargs)
            waited.append(sum(waits.seen.values()) > 0)
            shown.append(self.train_progress_bar.postfix)

    shown = []
    fit = trainer(tmp_path, callbacks=[Watched()], enable_progress_bar=True)
    fit.fit(without_latent(), TinyData(n=64))
    assert waited == [True, False, False, True, False, False, True, False]
    assert "energy_gap" in shown[-1]


@pytest.mark.parametrize("start", [0, 2])
def test_the_average_is_that_of_torch(start):
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    mine = averaged(0.9, start, net=net)["net"]
    reference = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for update in range(5):
        with torch.no_grad():
            net(torch.randn(4, 3))
            for p in net.parameters():
                p.add_(torch.randn_like(p))
        if update < start:  # it copies at its first update
            reference.n_averaged.zero_()
        elif reference.n_averaged == 0:
            reference.n_averaged.fill_(1)
        mine.update_parameters(net)
        reference.update_parameters(net)
        for a, b in zip(mine.module.state_dict().values(), reference.module.state_dict().values(), strict=True):
            assert torch.equal(a, b), update


def test_a_loaded_average_goes_on_where_it_was():
    net = nn.Linear(2, 2)
    one, two = averaged(0.5, 3, net=net)["net"], averaged(0.5, 3, net=net)["net"]
    one.update_parameters(net)
    one.update_parameters(net)
    two.load_state_dict(one.state_dict())
    for average in (one, two):
        nn.init.constant_(net.weight, 1.0)
        average.update_parameters(net)  # the third, still a copy
        nn.init.constant_(net.weight, 3.0)
        average.update_parameters(net)
    assert torch.equal(two.module.weight, torch.full((2, 2), 2.0))
    assert torch.equal(one.module.weight, two.module.weight)


B, K = 8, 2
"""The images of a batch, and the steps of each chain in the family."""
ENERGY = {"energy_net": K * B + 2 * B}  # a chain; then data and chain in one pass
MADE = ENERGY | {"generator": B}
PASSES = {
    "LIEBM, no latent": MADE,
    "LIEBM, encoder": MADE | {"encoder": B},  # z
    "LIEBM, encoder jointly": MADE | {"encoder": B + 2 * B},  # and two views
    "LIEBM, EJM": MADE | {"encoder": K * B + B},  # the chain's energy has h in it
    "LIEBM, ERM": MADE | {"generator": B + B, "inference": B, "encoder": B + B},  # and the bound: q(x), G(m), h(G(m))
    "LIEBM, q alone": MADE | {"generator": B + B, "inference": B, "encoder": B + B},
    "CLEL": ENERGY | {"encoder": B + 2 * B},  # z and two views
    "CLEL, no latent": ENERGY,
    "CDRL": ENERGY | {"initializer": B},
    "CDRL, no initializer": ENERGY,
    # start, latent chain, and the revised latents; q of data and of chains, whose batch statistics are their own
    "Dual-MCMC": ENERGY | {"generator": B + K * B + B, "inference": 2 * B},
    # and start and chain drawn anew from the generator just updated
    "Dual-MCMC, official": {"energy_net": 2 * K * B + 2 * B, "generator": B + K * B + B + B, "inference": 2 * B},
    "Energy Matching": {"energy_net": B + K * B + 2 * B},  # the transport, a chain, data and chain in one pass
    "EqM-E": {"energy_net": B},
    "EqM-E, l2": {"energy_net": B},
    "CoopNets": MADE,
    # E's step; q's: q(x), G(z), q(G(m)); G's, by the new q and E: q(x), G(z), q(G(m)), E(G(m))
    "Divergence Triangle": {"energy_net": 2 * B + B, "generator": B + B + B, "inference": 2 * B + 2 * B},
    "VAE": {"generator": B, "inference": B},
    "Hat EBM": ENERGY | {"generator": B + B},  # the start, and the pairs of the bank
    "DRL": ENERGY,
    "JEM": {"energy_net": K * B // 2 + B + B // 2},  # half of a batch has chains; then all of it and the chains
    "JEM, class chains": ENERGY,
    "JEM++": {"energy_net": K * B // 2 + B + B // 2},
    "IGEBM": ENERGY,
    "Improved CD": {"energy_net": K * B + 2 * B + B},  # and E held fixed, of the chain's end as a function of E
    "Short-run EBM": ENERGY,
    "MDSM": {"denoiser": B},
    "score network": {"denoiser": B},
}


@pytest.mark.parametrize("name", PASSES)
def test_no_image_passes_a_network_twice_in_vain(name, tmp_path, monkeypatch):
    seen = Counter()

    def around(method):
        seen.clear()
        return nullcontext()

    make = FAMILY[name]

    def hooked():
        method = make()
        for part in ("energy_net", "generator", "inference", "encoder", "initializer", "denoiser"):
            if (network := getattr(method, part, None)) is not None:
                layer = next(m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))
                layer.register_forward_pre_hook(lambda _, args, part=part: seen.update({part: len(args[0])}))
        return method

    monkeypatch.setitem(FAMILY, name, hooked)
    fitted(name, tmp_path, monkeypatch, around)
    assert seen == PASSES[name]


@pytest.mark.parametrize("name", [name for name in FAMILY if name != "Denoising-EBM"])
def test_no_gradient_is_computed_in_vain(name, tmp_path, monkeypatch):
    """A backward pass reaches the parameters of the networks that it is for, and no others."""
    minimize, vain = Method.minimize, set()

    def watched(self, loss, *names):
        self.zero_grad()
        norm = minimize(self, loss, *names)
        meant = {id(p) for n in names for p in self.trained_networks()[n].network.parameters()}
        vain.update(n for n, p in self.named_parameters() if p.grad is not None and id(p) not in meant)
        return norm

    monkeypatch.setattr(Method, "minimize", watched)
    fitted(name, tmp_path, monkeypatch, lambda _: nullcontext())
    assert not vain


@pytest.mark.parametrize("name", ["LIEBM, encoder", "LIEBM, encoder jointly", "CLEL"])
def test_the_latents_are_taken_without_a_graph(name, tmp_path, monkeypatch):
    graphs = []
    kind = type(FAMILY[name]())
    latent = kind._latent

    def watched(self, images):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: graphs.append(t) or t, lambda t: t):
            return latent(self, images)

    monkeypatch.setattr(kind, "_latent", watched)
    fitted(name, tmp_path, monkeypatch, lambda _: nullcontext())
    assert not graphs


class Kept:
    """A tensor that a graph keeps for its backward pass, counted while it does."""

    def __init__(self, tensor, live):
        self.tensor, self.live = tensor, live
        live["now"] += tensor.nbytes
        live["peak"] = max(live["peak"], live["now"])

    def __del__(self):
        self.live["now"] -= self.tensor.nbytes


def kept_by(work):
    """The most bytes that graphs keep at one time while `work` runs."""
    live = {"now": 0, "peak": 0}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: Kept(t, live), lambda kept: kept.tensor):
        work()
    assert live["now"] == 0  # nothing outlives it
    return live["peak"]


def energy_net():
    torch.manual_seed(0)
    return SNGANEnergy(in_channels=1, size=8, width=16, bias="all")


def test_memory_of_a_chain_is_flat_in_its_steps():
    net, x = energy_net(), torch.rand(8, 1, 8, 8)
    peaks = [kept_by(lambda steps=steps: Langevin(steps, 0.1)(net, x)) for steps in (1, 2, 20)]
    assert peaks[0] == peaks[1] == peaks[2] > 0
    with frozen(net):
        assert kept_by(lambda: gradient(net, x)) == peaks[0]  # that of one gradient, which keeps no parameter's part
    assert kept_by(lambda: gradient(net, x)) > peaks[0]


def test_bf16_keeps_half(tmp_path):
    net, x = energy_net(), torch.rand(8, 1, 8, 8)
    fp32 = kept_by(lambda: Langevin(2, 0.1, precision="fp32")(net, x))
    bf16 = kept_by(lambda: Langevin(2, 0.1, precision="bf16")(net, x))
    assert 0.4 * fp32 < bf16 < 0.7 * fp32


def test_a_buffer_of_uint8_takes_a_quarter():
    nbytes = {
        storage: ReplayBuffer(100, (3, 32, 32), storage=storage).states.nbytes for storage in ("float32", "uint8")
    }
    assert nbytes == {"float32": 100 * 3 * 32 * 32 * 4, "uint8": 100 * 3 * 32 * 32}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_of_a_chain_is_flat_on_a_gpu():
    net, x = energy_net().cuda(), torch.rand(64, 1, 8, 8, device="cuda")
    peaks = []
    for steps in (2, 4, 40):
        torch.cuda.reset_peak_memory_stats()
        Langevin(steps, 0.1)(net, x)
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[2] <= peaks[1] + 4096  # but for the flag of each step that its states are finite


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", FAMILY)
def test_the_host_waits_once_a_chain_on_a_gpu(name, tmp_path, monkeypatch):
    """Not even inside operations: CUDA itself tells of every wait, and those are the checks of chains."""
    waits = []

    @contextmanager
    def around(method):
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            yield
        torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("synchronizing" in str(w.message) for w in told))

    fitted(name, tmp_path, monkeypatch, around, accelerator="gpu")
    assert waits[-1] <= 2 * CHAINS.get(name, 1)  # the number of bad steps, and which
