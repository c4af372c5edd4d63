"""Each option of the sampler that is there for speed gives the chain of the plain one, within its precision."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch.nn.utils import parametrize

from ebmzoo.energy import gradient
from ebmzoo.networks import CLELEnergy, CLELFeatures, LatentEnergy, RecoveryResNet, SNGANFeatures
from ebmzoo.sampling import chain_context
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.latent_energies import GivenLatent, Joint
from profiling.networks import AtLevel

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
TRACED = [
    pytest.param("cpu", {"compile": True}, id="cpu"),
    pytest.param("cuda", {"compile": True}, marks=GPU, id="cuda"),
]


@pytest.fixture
def traced(monkeypatch):
    """`torch.compile` without the code generator, which takes the time: the traced code and its guards are the same."""
    torch._dynamo.reset()

    @cache
    def tracer():
        return torch.compile(chain_context._value, backend="aot_eager")

    monkeypatch.setattr(chain_context, "_tracer", tracer)
    yield
    torch._dynamo.reset()


def nets():
    torch.manual_seed(0)
    yield LatentEnergy(SNGANFeatures(3, 32, 8, 16), latent=4, hidden=8)
    yield CLELEnergy(CLELFeatures(3, 8, (1, 2), 1, 1, hidden=16, latent=4, spectral_norm="conv"), latent=4, hidden=8)


def chain(sampler, energy, x, seed=3, **sizes):
    torch.manual_seed(seed)
    return sampler(energy, x, **sizes)


def images(n=4):
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


PLAIN = Langevin(3, 0.5, 0.01, precision="fp32", channels_last=False)


def test_channels_last_gives_the_same_chain():
    for net in nets():
        net.eval()
        fast = copy.deepcopy(net).to(memory_format=torch.channels_last)
        torch.testing.assert_close(
            chain(Langevin(3, 0.5, 0.01, precision="fp32"), fast, images()), chain(PLAIN, net, images())
        )


def test_bf16_gives_the_chain_within_its_precision_and_the_noise_to_the_last_bit():
    """Relative to how far the gradient moves the image: bf16 rounds to 2⁻⁹, and a gradient passes tens of layers."""
    for net in nets():
        net.eval()
        eta = 0.1 / float(gradient(net, images()).abs().max())
        low, high = (Langevin(3, eta, 0.0, precision=precision) for precision in ("bf16", "fp32"))
        moved = chain(high, net, images()) - images()
        error = (chain(low, net, images()) - images() - moved).norm() / moved.norm()
        assert 0 < error < 40 * 2**-9, type(net)
        noise = [chain(Langevin(3, 0.0, 0.01, precision=precision), net, images()) for precision in ("bf16", "fp32")]
        assert torch.equal(*noise)
        assert noise[0].dtype == torch.float32


@pytest.mark.parametrize(("device", "options"), TRACED)
def test_traced_chains_see_new_weights_new_spectral_norms_and_new_step_sizes(device, options, request):
    if device == "cpu":
        request.getfixturevalue("traced")
    fast = replace(PLAIN, **options)
    x = images().to(device)
    for net in nets():
        net.eval().to(device)
        eta = 0.1 / float(gradient(net, x).abs().max())
        before = chain(fast, net, x, step_size=eta)
        torch.testing.assert_close(before, chain(PLAIN, net, x, step_size=eta), rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(1.3).add_(0.01)
        net.train()
        net(x)  # a power iteration, if the network has spectral norms
        net.eval()
        after = chain(fast, net, x, step_size=eta)
        assert (after - before).abs().max() > 1e-3
        torch.testing.assert_close(after, chain(PLAIN, net, x, step_size=eta), rtol=1e-4, atol=1e-5)
        sizes = {"step_size": eta * torch.linspace(0.1, 1, 4, device=device), "noise": 0.0}
        torch.testing.assert_close(chain(fast, net, x, **sizes), chain(PLAIN, net, x, **sizes), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("device", "options"), TRACED)
def test_spectral_norms_in_training_move_once_a_traced_chain_as_in_a_plain_one(device, options, request):
    if device == "cpu":
        request.getfixturevalue("traced")
    made = [
        CLELEnergy(CLELFeatures(3, 8, (1, 2), 1, 1, hidden=16, latent=4, spectral_norm="conv"), latent=4, hidden=8),
        AtLevel(RecoveryResNet(width=8, depth=1, embedding=16, spectral_norm="bounded"), 500.0),
    ]
    x = images().to(device)
    for net in made:
        net.train().to(device)
        eta = 0.1 / float(gradient(copy.deepcopy(net), x).abs().max())
        slow, fast = net, copy.deepcopy(net)
        before = {name: buffer.clone() for name, buffer in net.named_buffers()}
        tracing = replace(PLAIN, **options)
        for seed in (3, 4):
            ends = [chain(sampler, one, x, seed, step_size=eta) for sampler, one in ((PLAIN, slow), (tracing, fast))]
            torch.testing.assert_close(ends[1], ends[0], rtol=1e-4, atol=1e-5)
            for name, buffer in slow.named_buffers():
                torch.testing.assert_close(fast.get_buffer(name), buffer, msg=f"{type(net).__name__}: {name}")
        assert any(not torch.equal(buffer, before[name]) for name, buffer in slow.named_buffers())
        assert all(part.training for part in fast.modules())


class Watched(torch.nn.Module):
    """The identity, which records whether autocast is on where spectral norm would make its power iteration."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, weight):
        if self.training:
            self.seen.append(torch.is_autocast_enabled("cpu"))
        return weight


class Line(torch.nn.Module):
    """E(x) = W x."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3 * 32 * 32, 1)

    def forward(self, x):
        return self.layer(x.flatten(1))[:, 0].float()


@pytest.mark.parametrize("ambient", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_spectral_norms_move_in_the_chain_s_precision_and_not_in_the_caller_s(precision, ambient, traced):
    for options in ({}, {"compile": True}):
        net, watched = Line(), Watched()
        parametrize.register_parametrization(net.layer, "weight", watched)
        watched.seen.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=ambient):
            chain(replace(PLAIN, precision=precision, **options), net, images())
        assert watched.seen == [precision == "bf16"], options


def test_a_compiled_energy_is_one_cuda_graph_on_a_gpu(monkeypatch):
    options_of_compile = []
    monkeypatch.setattr(torch, "compile", lambda value, **how: options_of_compile.append(how))
    chain_context._tracer.__wrapped__()
    assert options_of_compile == [{"mode": "reduce-overhead"}]
    assert torch._inductor.list_mode_options("reduce-overhead") == {"triton.cudagraphs": True}


def test_an_energy_made_anew_for_each_chain_is_compiled_once(traced):
    net = next(nets()).eval()
    fast = Langevin(2, 0.5, 0.01, precision="fp32", channels_last=False, compile=True)
    plain = Langevin(2, 0.5, 0.01, precision="fp32", channels_last=False)
    counter, graphs = torch._dynamo.utils.counters, []
    for seed in range(3):
        energy = GivenLatent(Joint(net, 0.5), torch.randn(1, 4, generator=torch.Generator().manual_seed(seed)))
        torch.testing.assert_close(chain(fast, energy, images()), chain(plain, energy, images()), rtol=1e-4, atol=1e-5)
        graphs.append(counter["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert graphs == graphs[:1] * 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_memory_of_a_chain_does_not_grow_with_its_steps():
    net = next(nets()).cuda().eval()
    peaks = []
    for steps in (2, 2, 20):  # the first makes room for all
        torch.cuda.reset_peak_memory_stats()
        Langevin(steps, 0.5, 0.01)(net, images(64).cuda())
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[2] <= 1.02 * peaks[1]
