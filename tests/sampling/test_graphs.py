"""Every energy that a chain walks on is one graph for `torch.compile`, without a break, and has the same values."""

from unittest.mock import patch

import pytest
import torch

from ebmzoo.commands.estimate.fake import UnstartedTrainer
from ebmzoo.sampling.langevin import Langevin
from support.family import FAMILY

WITHOUT_CHAIN = ("Divergence Triangle", "VAE")


def energies_of_chains(method):
    """The energies of the chains of an iteration and of samples, with a state of each, one of each kind."""
    chain, found = Langevin.__call__, {}

    def seen(self, energy, x, **options):
        if self.steps:
            found.setdefault((type(energy), tuple(x.shape[1:])), (energy, x.detach().clone()))
        return chain(self.lasting(min(self.steps, 1)), energy, x, **options)

    trainer = UnstartedTrainer(100, 10, accelerator="cpu", max_epochs=1000)
    with patch.object(Langevin, "__call__", seen), trainer.attached(method):
        trainer.go_to(trainer.an_epoch)
        method.training_step((torch.rand(4, 1, 8, 8) * 2 - 1, torch.zeros(4, dtype=torch.int64)), 0)
        with method.evaluating():
            method.sample(2)
    return list(found.values())


@pytest.mark.parametrize("name", [name for name in FAMILY if name not in WITHOUT_CHAIN])
def test_an_energy_is_one_graph(name):
    torch.manual_seed(0)
    method = FAMILY[name]()
    found = energies_of_chains(method)
    assert found
    method.eval().requires_grad_(False)
    for energy, x in found:
        torch.compiler.reset()
        compiled = torch.compile(lambda state, of=energy: of(state), fullgraph=True, backend="eager")
        values = []
        for value in (compiled, energy):
            torch.manual_seed(1)  # Denoising-EBM's draws noise
            values.append(value(x))
        torch.testing.assert_close(*values)
