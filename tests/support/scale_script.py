"""One of two processes: `torchrun --nproc_per_node 2 scale_script.py FOLDER`; see test_scale.py."""

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.optim import Adam

from ebmzoo.methods import Method
from support.family import FAMILY
from support.marginal import short_run
from support.shared_randomness import SharedRandomness
from support.tiny import TinyData, cdrl, trainer

ADAM = {"energy_optimizer": lambda p: Adam(p, 1e-3, eps=1e-4)}  # an ε much larger than rounding errors
EXACT = {
    "Short-run EBM": lambda: short_run(**ADAM, clip_norm=1e-3, ema_decay=0.9),
    "CDRL": lambda: cdrl(classes=4, initializer=None, **ADAM, ema_decay=0.9),
}
"""Settings without batch statistics, so that two processes equal one with twice the batch."""

REDUCED = {"CDRL": 2, "LIEBM, ERM": 2}
"""Methods with different numbers of optimizer steps per iteration."""


def fitted(name, folder, patch, parts=1, **changes):
    """Three epochs of three steps in double precision, with the random numbers of one whole batch."""
    torch.manual_seed(0)
    method = EXACT[name]()
    SharedRandomness(patch, parts, part=lambda _: dist.get_rank() if dist.is_initialized() else 0)
    fit = trainer(folder, max_epochs=3, precision="64-true", **changes)
    fit.fit(method, TinyData(n=24, batch_size=8 // parts))
    return method.state_dict()


def reduced(name, folder, patch):
    """The bytes of gradients that a process exchanges per iteration, and those of the parameters of its steps."""
    method, counted, meant = FAMILY[name](), [], []
    all_reduce, minimize, step = dist.all_reduce, Method.minimize, Method.training_step

    def counting(tensor, *args, **kwargs):
        if counted:
            counted[-1] += tensor.nbytes
        return all_reduce(tensor, *args, **kwargs)

    def noted(self, loss, *names):
        meant[-1] += sum(p.nbytes for name in names for p in self.trained_networks()[name].network.parameters())
        return minimize(self, loss, *names)

    def stepping(self, batch, batch_idx):
        counted.append(0)
        meant.append(0)
        step(self, batch, batch_idx)

    patch.setattr(dist, "all_reduce", counting)
    patch.setattr(Method, "minimize", noted)
    patch.setattr(Method, "training_step", stepping)
    fit = trainer(folder, max_epochs=2, strategy="ddp", devices=2)
    fit.fit(method, TinyData(n=32, batch_size=4))
    return {"counted": counted, "meant": meant, "all": sum(p.nbytes for p in method.parameters() if p.requires_grad)}


if __name__ == "__main__":
    where, result = Path(sys.argv[1]), {}
    for which in EXACT:
        with pytest.MonkeyPatch.context() as monkeypatch:
            result[which] = fitted(which, where, monkeypatch, parts=2, strategy="ddp", devices=2)
    for which in REDUCED:
        with pytest.MonkeyPatch.context() as monkeypatch:
            result["bytes", which] = reduced(which, where, monkeypatch)
    torch.save(result, where / f"rank{dist.get_rank()}.pt")
