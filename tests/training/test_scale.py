"""Two processes under `ddp` are equal to one with twice the batch, and exchange only the gradients that they need."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from ebmzoo.errors import UserError
from support.marginal import short_run
from support.paths import SUPPORT, TESTS
from support.scale_script import EXACT, REDUCED, fitted

SCRIPT = SUPPORT / "scale_script.py"


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """The results of two processes for all tests below."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(SCRIPT)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    done = subprocess.run([*command, str(folder)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", EXACT)
def test_two_processes_are_one_with_twice_the_batch(name, processes, tmp_path, monkeypatch):
    """Weights and averages after nine steps with the random numbers of one whole batch, in double precision."""
    torch.manual_seed(0)
    start = EXACT[name]().double().state_dict()
    whole = fitted(name, tmp_path, monkeypatch)
    moved = max(float((whole[key].double() - value).abs().max()) for key, value in start.items())
    assert moved > 1e-3
    for results in processes:
        for key, value in whole.items():
            torch.testing.assert_close(
                results[name][key], value, rtol=0, atol=1e-10, msg=lambda error, key=key: key + error
            )


@pytest.mark.parametrize("name", REDUCED)
def test_processes_exchange_only_the_gradients_of_a_step(name, processes):
    """Those of each step's own parameters; DDP alone would exchange all gradients at each step."""
    for results in processes:
        counted, meant, every = (results["bytes", name][key] for key in ("counted", "meant", "all"))
        assert counted == meant
        assert 0 < meant[-1] < REDUCED[name] * every


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_sharded_parameters_are_refused_in_a_sentence(strategy):
    """On the CPU Lightning refuses them earlier, also with one sentence."""
    method = short_run()
    method._trainer = SimpleNamespace(strategy=strategy(), precision="32-true")
    with pytest.raises(UserError, match=r"trainer.strategy shards .* use ddp"):
        method.setup("fit")
