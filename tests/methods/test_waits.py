"""Every method on a device that is not there: no tensor stays on the host, and the host waits once a chain only."""

from collections import Counter
from unittest.mock import patch

import pytest
import torch

from ebmzoo.commands.estimate.command import plan_of
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.networks import SNGANEnergy
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.replay import ReplayBuffer
from support.elsewhere import CUDA, on_a_device
from support.family import FAMILY

pytestmark = pytest.mark.usefixtures("fakes_collected")

CHAIN = "sampling/langevin.py: _raise_if_diverged"
"""The one place that may wait in training, scores and samples: the check that a chain's states are finite."""
OF_TRAINING = {"Energy Matching": {"sampling/transport.py: optimal_pairing"}}
"""What also waits in an iteration: an assignment of images to noise is found on the host."""


def batch(n=8):
    return torch.rand(n, 1, 8, 8).to(CUDA) * 2 - 1, torch.zeros(n, dtype=torch.int64).to(CUDA)


def waited(elsewhere):
    """The places that waited since the last call."""
    found = set(elsewhere.waits)
    elsewhere.waits.clear()
    return found


@pytest.mark.parametrize("name", FAMILY)
def test_training_and_evaluation_stay_on_the_device(name):
    """In bf16; the iteration is the second, of the energy's stage where there are two."""
    method = FAMILY[name]()
    with on_a_device(method, "bf16-mixed") as (elsewhere, trainer):
        trainer.go_to(trainer.an_epoch)
        images, labels = batch()
        for _ in range(2):
            with trainer.precision_plugin.forward_context():
                method.training_step((images, labels), 0)
        assert waited(elsewhere) - {CHAIN} == OF_TRAINING.get(name, set())
        assert all(p.device == CUDA for p in method.parameters())
        method.predict_step((images, labels), 0)
        assert waited(elsewhere) == set(), "energy and score need no chain"
        with method.evaluating():
            method.sample(2, steps=None if method.chain_info().steps == 0 else 1)
        assert waited(elsewhere) <= {CHAIN}
        assert all(kept.is_cuda for kept in method.state_dict().values())


@pytest.mark.parametrize("name", ["CDRL", "score network", "LIEBM, encoder", "Improved CD"])
def test_training_in_fp32_stays_on_the_device(name):
    method = FAMILY[name]()
    with on_a_device(method) as (elsewhere, trainer):
        trainer.go_to(trainer.an_epoch)
        method.training_step(batch(), 0)
        assert waited(elsewhere) <= {CHAIN}


@pytest.mark.parametrize("name", ["liebm_cifar", "clel_cifar", "dual_mcmc_cifar"])
def test_configs_of_paper_size_stay_on_the_device(name):
    """Each phase of training, and the score, with chains of one step."""
    plan, chain = plan_of(name), Langevin.__call__
    with torch.device("meta"):
        method = plan.build()

    def short(self, *args, **options):
        return chain(self.lasting(1), *args, **options)

    with (
        on_a_device(method, "bf16-mixed", 2000, an_epoch=1) as (elsewhere, trainer),
        patch.object(Langevin, "__call__", short),
    ):
        images = torch.rand(4, plan.data.channels, plan.data.size, plan.data.size).to(CUDA)
        for step in (0, trainer.iterations - 1):
            trainer.go_to(step)
            with trainer.precision_plugin.forward_context():
                method.training_step((images, torch.zeros(4, dtype=torch.int64).to(CUDA)), 0)
        with method.evaluating():
            method.ood_score(images)
    assert waited(elsewhere) == {CHAIN}


def test_labels_that_the_method_draws_are_not_read():
    """Those that a caller has on the device are, twice, to name them in an error; those on the host are not."""
    method = FAMILY["CDRL"]()
    with on_a_device(method) as (elsewhere, _):
        method.sample(2, steps=0)
        method.sample(2, steps=0, labels=torch.tensor([0, 1]))
        assert waited(elsewhere) == set()
        method.sample(2, steps=0, labels=torch.zeros(2, dtype=torch.int64).to(CUDA))
        assert waited(elsewhere) == {"methods/families/recovery_likelihood.py: sample_from_classes"}


@pytest.mark.parametrize("policy", ["slot", "ring", "reservoir"])
@pytest.mark.parametrize("storage", ["float32", "uint8"])
def test_a_replay_buffer_waits_only_when_it_is_loaded(policy, storage):
    buffer = ReplayBuffer(16, (1, 8, 8), policy, reinit_prob=0.1, storage=storage)
    saved = buffer.state_dict()
    with on_a_device(torch.nn.ModuleList([buffer])) as (elsewhere, _):
        for _ in range(3):
            states, slots = buffer.draw(4)
            buffer.store(states, slots)
        assert waited(elsewhere) == set()
        assert states.device == CUDA
        buffer.load_state_dict(saved)
        assert waited(elsewhere) == {"sampling/replay.py: _count"}


def test_averages_wait_only_when_they_are_loaded():
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    module = torch.nn.ModuleDict({"net": net, "averages": averaged(0.9, net=net, warmup=True)})
    saved = module.state_dict()
    with on_a_device(module) as (elsewhere, _):
        module["averages"]["net"].update_parameters(net)
        assert waited(elsewhere) == set()
        module.load_state_dict(saved)
        assert waited(elsewhere) == {"methods/base/averaging.py: _count"}


def test_waits_and_tensors_on_the_wrong_device_are_seen():
    net = SNGANEnergy(in_channels=1, size=8, width=8)
    with on_a_device(net) as (elsewhere, _):
        x = batch()[0]
        assert net(x).device == CUDA
        x.mean().item()
        x.cpu()
        x[x.mean((1, 2, 3)) > 0]
        assert elsewhere.waits == Counter({"not in the package": 3})
        with pytest.raises(RuntimeError, match="to be on the same device"):
            net(torch.zeros(2, 1, 8, 8))
