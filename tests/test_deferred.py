"""What a command does not need is not loaded, and is there as it would be where it is asked for."""

import subprocess
import sys

import pytest

SECOND_ITERATION = """
import os, sys
from ebmzoo.commands import deferred
deferred.install()
from ebmzoo.commands.cli import main
from ebmzoo.training.record import TrainingRecord

def ends(self, trainer, *args):
    if trainer.global_step == 1:  # an optimizer has stepped
        print("modules:", *sys.modules)
        sys.stdout.flush()
        os._exit(0)

TrainingRecord.on_train_batch_start = ends
main(["fit", "--config", "liebm_digits", "--run_dir", "run", "--trainer.enable_progress_bar", "false"])
"""
NEVER = (
    *("torch._dynamo.eval_frame", "torch._inductor", "torch.onnx", "sympy", "torch.fx.experimental.symbolic_shapes"),
    "triton",
    *("scipy.signal", "scipy.stats", "matplotlib", "sklearn", "lmdb", "pandas"),
    *("torchmetrics.classification", "torchmetrics.functional.audio", "torchmetrics.functional.image.lpips"),
    *("torchvision.models.convnext", "torchvision.ops.boxes", "wandb.apis.public"),
)


def python(code, folder=None):
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_fit_s_first_iteration_needs_no_compiler_and_no_statistics(tmp_path):
    (line,) = [line for line in python(SECOND_ITERATION, tmp_path).splitlines() if line.startswith("modules: ")]
    modules = line.split()[1:]
    assert not {name for name in modules if name in NEVER or name.startswith(tuple(f"{n}." for n in NEVER))}
    assert len(modules) < 2700


INSTALLED = "from ebmzoo.commands import deferred; deferred.install()\n"


@pytest.mark.parametrize(
    "code",
    [
        "import torchvision; assert torchvision.ops.nms and torchvision.models.resnet50 and torchvision.__version__",
        "from torchvision.models import resnet18, vgg; assert resnet18 and vgg.VGG",
        "from torchvision.models.resnet import BasicBlock; import torchvision.models as m\n"
        "assert m.resnet.BasicBlock is BasicBlock and m.ResNet is m.resnet.ResNet",
        "import torchmetrics; from torchmetrics import Metric\n"
        "assert issubclass(torchmetrics.MeanMetric, Metric) and torchmetrics.Metric is Metric",
        "from torchmetrics.functional.image import peak_signal_noise_ratio as one\n"
        "import torchmetrics.functional as f; assert f.peak_signal_noise_ratio is not None and callable(one)",
        "from torchmetrics.image import StructuralSimilarityIndexMeasure",
        "import torch, torch._dynamo; torch._dynamo.reset(); assert torch._dynamo.config.verbose is False",
        "import torch._dynamo.utils; assert torch._dynamo.utils.counters is not None",
        "import torch._dynamo as d; assert not hasattr(d, 'no_such_name') and d.list_backends()",
        "import torch; from torch.utils.flop_counter import FlopCounterMode as mode\n"
        "with mode(display=False) as counted:\n    torch.ones(2, 3) @ torch.ones(3, 5)\n"
        "assert counted.get_total_flops() == 60",
        "from torch.utils.flop_counter import flop_registry; assert flop_registry",
        "import wandb.sdk.launch; assert wandb.sdk.launch.launch",
    ],
)
def test_a_deferred_package_is_whole_where_it_is_asked_for(code):
    python(INSTALLED + code)


def test_a_network_is_compiled_after_an_optimizer_has_stepped_without_the_compiler():
    python(
        INSTALLED
        + """
import sys, torch, lightning.pytorch
net = torch.nn.Linear(2, 1)
adam = torch.optim.Adam(net.parameters())
net(torch.ones(1, 2)).sum().backward(); adam.step(); adam.zero_grad()
assert "torch._dynamo.eval_frame" not in sys.modules
from lightning.pytorch.utilities.compile import OptimizedModule
assert not isinstance(net, OptimizedModule)
compiled = torch.compile(net, backend="eager")
x = torch.ones(3, 2)
assert torch.equal(compiled(x), net(x)) and "torch._dynamo.eval_frame" in sys.modules
assert isinstance(compiled, OptimizedModule) and not isinstance(net, OptimizedModule)
assert type(compiled) is torch._dynamo.OptimizedModule
compiled(x).sum().backward(); adam.step(); adam.zero_grad()
torch.optim.SGD(net.parameters(), lr=0.1).step()
"""
    )
