"""Two processes under `ddp` on the CPU: different images, different chains, equal weights; and resumed to the bit."""

import os
import subprocess
import sys

import pytest
import torch

from ebmzoo.training.checkpoint import LastCheckpoint, read
from support.ddp_script import METHODS
from support.paths import SUPPORT, TESTS
from support.resuming import same
from support.tiny import TinyData, trainer

SCRIPT = SUPPORT / "ddp_script.py"


def two_processes(folder, method, task):
    """The results of two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(SCRIPT)]
    done = subprocess.run(
        [*command, str(folder), method, task],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("method", ["liebm", "dual_mcmc"])
def test_two_processes_train_to_equal_weights(method, tmp_path):
    one, two = two_processes(tmp_path, method, "alike")
    assert one["steps"] == two["steps"] == list(range(1, 13))
    # together the ranks see each image exactly once per epoch
    seen = torch.cat([one["seen"][:16], two["seen"][:16]]).flatten(1)
    assert len(seen.unique(dim=0)) == 32
    learnt = [n for n in one["weights"] if n.endswith(("weight", "bias"))]
    assert any(n.startswith("inference.") for n in learnt)
    for name in learnt:
        assert torch.equal(one["weights"][name], two["weights"][name]), name
    # seeded alike, as the command line seeds them, the processes still draw their own latents
    assert len(torch.cat([one["latents"], two["latents"]]).unique(dim=0)) == 2 * len(one["latents"])
    # one encoder for all, also in the batch statistics that stage 1 left
    for name in [n for n in one["weights"] if n.startswith("encoder.")]:
        assert torch.equal(one["weights"][name], two["weights"][name]), name


@pytest.mark.parametrize(
    ("method", "own"), [("igebm", "replay.states"), ("jem", "replay.states"), ("liebm", "running_mean")]
)
def test_two_processes_are_resumed_to_the_last_bit(method, own, tmp_path, capsys):
    """Each has its own replay buffer, batch statistics and random numbers; one process can also resume alone."""
    results = two_processes(tmp_path, method, "resumed")
    for rank in results:
        same(rank["whole"], rank["cut"])
    one, two = (rank["whole"]["state"] for rank in results)
    differing = [name for name in one if not torch.equal(one[name], two[name])]
    assert any(name.endswith(own) for name in differing), "else this would show nothing"
    kept = read(tmp_path / "cut" / "last.ckpt")["ebmzoo"]
    assert [sorted(buffers) for buffers in kept["buffers"]] == [sorted(differing)], "what is alike is kept once"
    keep = LastCheckpoint(tmp_path / "alone", "model: null")
    fit = trainer(tmp_path, max_steps=12, max_epochs=-1, callbacks=[keep], enable_checkpointing=True)
    found = tmp_path / "cut" / "last.ckpt"
    fit.fit(METHODS[method](), TinyData(n=32, batch_size=4), ckpt_path=found, weights_only=True)
    assert fit.global_step == 12
    assert "the checkpoint has 2 processes and this run has 1: it resumes, but not bit for bit" in (
        capsys.readouterr().err
    )


def test_two_processes_score_samples_together_and_train_as_without(tmp_path):
    for rank, found in enumerate(two_processes(tmp_path, "igebm", "scored")):
        same(found[0]["trained"], found[2]["trained"])
        assert bool(found[2]["kept"]) == (rank == 0), "process 0 alone writes"
        assert found[0]["kept"] == []
        if rank == 0:
            assert read(tmp_path / "every2" / "best.ckpt")["global_step"] == found[2]["kept"][0]
