"""Two processes under `ddp` on the CPU: different images, different chains, equal weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("ddp_script.py")


@pytest.mark.parametrize("method", ["liebm", "dual_mcmc"])
def test_two_processes_train_to_equal_weights(method, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(SCRIPT)]
    done = subprocess.run(
        [*command, str(tmp_path), method],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one["steps"] == two["steps"] == list(range(1, 13))
    # together the ranks see each image once an epoch, and none twice
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
