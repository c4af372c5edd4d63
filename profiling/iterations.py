"""One training iteration of each method, and of contrastive divergence as others write it."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from ebmzoo.data import ImageData, ImageSet
from ebmzoo.energy import Energy
from ebmzoo.methods import LIEBM, DenoisingEBM
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.training.config import build_model
from ebmzoo.training.config_files import named_config
from ebmzoo.training.trainer import DEFAULTS, ZooTrainer
from profiling.chains import as_torchebm, ebmkit_sampler, exactly, plain, torchebm_sampler
from profiling.networks import NOISE, STEP_SIZE
from profiling.timing import Timed, Work, wait

Loss = Callable[[], Tensor]

METHODS = {
    "LIEBM": "liebm_small_narrow_cifar",
    "CLEL": "clel_small_cifar",
    "CDRL": "cdrl_small_cifar",
    "Dual-MCMC": "dual_mcmc_small_cifar",
    "Denoising-EBM": "denoising_ebm_small_cifar",
}
QUIET: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False
)


class Noise(ImageData):
    """512 images of noise in ten classes."""

    name, size, channels = "noise", 32, 3

    def load(self) -> tuple[ImageSet, ImageSet]:
        images = torch.randint(0, 256, (512, 3, 32, 32), dtype=torch.uint8)
        both = ImageSet(images, torch.arange(512) % 10, tuple("0123456789"), "noise")
        return both, both


class Clock(Callback):
    """Seconds of each iteration."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        wait(pl_module.device)
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        wait(pl_module.device)
        self.seconds.append(time.perf_counter() - self._start)


@contextmanager
def plainly(module: LightningModule) -> Iterator[None]:
    """Within it every chain is the plain loop, and networks lie in memory as PyTorch makes them."""

    def loop(
        self: Langevin, energy: Energy, x: Tensor, *, step_size: Any = None, noise: Any = None, **_: Any
    ) -> Tensor:
        eta, tau = self._sizes(x, step_size, noise)
        with torch.enable_grad():
            for _step in range(self.steps):
                x = x.detach().requires_grad_()
                energy(x).sum().backward()
                x = x - eta * x.grad + tau * torch.randn_like(x)  # type: ignore[operator]
                x = x if self.bounds is None else x.clamp(*self.bounds)
        return x.detach()

    def setup(self: LightningModule, stage: str) -> None:
        pass

    with patch.object(Langevin, "__call__", loop), patch.object(type(module), "setup", setup):
        yield


def of_method(config: str, batch: int, iterations: int, precision: str, style: str, folder: Path) -> list[float]:
    """Seconds of `iterations` of a config's method, after one that warms up."""
    torch.manual_seed(0)
    module = build_model(named_config(config))
    if isinstance(module, LIEBM):
        module.encoder_checkpoint = None  # any encoder will do
        if module.encoder_stage is not None and not module.encoder_stage.jointly:
            module.encoder_stage = replace(module.encoder_stage, epochs=0)  # or it would be the encoder that is timed
    if isinstance(module, DenoisingEBM):
        module.learning = replace(module.learning, warmup=0)
    clock, data = Clock(), Noise(batch_size=batch)
    settings = DEFAULTS | QUIET | {"max_steps": iterations + 1, "max_epochs": -1, "limit_val_batches": 0}
    trainer = ZooTrainer(
        **settings, accelerator="auto", devices=1, precision=precision, callbacks=[clock], default_root_dir=folder
    )
    if style == "plain":
        with plainly(module):
            trainer.fit(module, data)
    else:
        trainer.fit(module, data)
    return clock.seconds[1:]


STYLES = {"plain chains, fp32": ("32-true", "plain"), "fp32": ("32-true", "ours"), "bf16": ("bf16-mixed", "ours")}


def of_methods(
    methods: dict[str, str], batch: int, rounds: int, each: int, folder: Path
) -> dict[str, dict[str, Timed]]:
    """Iterations of each method: with the plain loop for its chains, and as here in fp32 and bf16, in turn."""
    found = {}
    for name, config in methods.items():
        taken: dict[str, list[float]] = {style: [] for style in STYLES}
        for _ in range(rounds):
            for style, (precision, how) in STYLES.items():
                taken[style] += of_method(config, batch, each, precision, how, folder)
        found[name] = {style: Timed(tuple(seconds)) for style, seconds in taken.items()}
    return found


IMAGES = 50_000
SCHEDULE = {"simclr_cifar": (512, 1000), "liebm_cifar": (256, 500)}
"""Batch and epochs of LIEBM's two stages on CIFAR-10, Table 11 and the encoder's code."""


def of_schedule(iterations: int, folder: Path) -> dict[str, float]:
    """Hours of each stage of LIEBM's full run on CIFAR-10, from the median of measured iterations in bf16."""
    hours = {}
    for config, (batch, epochs) in SCHEDULE.items():
        seconds = statistics.median(of_method(config, batch, iterations, "bf16-mixed", "ours", folder))
        hours[config] = seconds * (IMAGES // batch) * epochs / 3600
    return hours


def losses(net: nn.Module, x: Tensor, steps: int, channels_last: bool = True) -> dict[str, Loss]:
    """Mean E(x) − mean E(x̃), chains from the data (CD-k), as a plain loop has it, as others and as we do."""
    found: dict[str, Loss] = {"plain loop": lambda: net(x).mean() - net(plain(net, x, steps)).mean()}
    if find_spec("torchebm"):
        found["torchebm"] = _torchebm(net, x, steps)
    if find_spec("ebm"):
        found["ebmkit"] = _ebmkit(net, x, steps)
    found |= {
        f"ebmzoo, {precision}": _ebmzoo(net, x, steps, precision, channels_last) for precision in ("fp32", "bf16")
    }
    return found


def contrastive_divergence(net: nn.Module, x: Tensor, steps: int) -> dict[str, Work]:
    """One iteration: the loss, its gradient and a step of Adam; ours channels-last, and each on weights of its own."""
    found = {}
    for name in losses(net, x, steps):
        own = copy.deepcopy(net)
        if name.startswith("ebmzoo"):
            own = own.to(memory_format=torch.channels_last)
        found[name] = _iteration(own, losses(own, x, steps)[name])
    return found


def _iteration(net: nn.Module, loss: Loss) -> Work:
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)

    def work() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return work


def disagreement_of_losses(net: nn.Module, x: Tensor, steps: int) -> dict[str, float]:
    """How far each loss is from the plain loop's, with equal seeds and one network in fp32 as PyTorch makes it.

    Raises:
        AssertionError: one is farther off than 1e-6 of mean |E(x)|, where that is above 1, or its gradient is by more
            than 1e-5 of that of mean E(x): the gradients of data and chains all but cancel, and few digits are left.
    """

    def slope(value: Tensor) -> Tensor:
        grads = torch.autograd.grad(value, list(net.parameters()), allow_unused=True)
        return torch.cat([grad.flatten() for grad in grads if grad is not None])

    found = {}
    with exactly():
        for name, loss in losses(net, x, steps, channels_last=False).items():
            if not name.endswith("bf16"):
                torch.manual_seed(0)
                value = loss()
                found[name] = value.detach(), slope(value)
        of_data = net(x)
        (value, grad), unit = found["plain loop"], slope(of_data.mean()).norm()
    scale = of_data.detach().abs().mean().clamp_min(1)
    far = {name: float((other - value).abs() / scale) for name, (other, _) in found.items()}
    turned = {name: float((other - grad).norm() / unit) for name, (_, other) in found.items()}
    wrong = {name: (far[name], turned[name]) for name in far if not (far[name] <= 1e-6 and turned[name] <= 1e-5)}
    assert not wrong, f"losses of equal seeds differ by more than 1e-6, or gradients by more than 1e-5: {wrong}"
    return far


def _torchebm(net: nn.Module, x: Tensor, steps: int) -> Loss:
    from torchebm.losses import ContrastiveDivergence

    model = as_torchebm(net, x.device)
    sampler = torchebm_sampler(model, x.device)
    divergence = ContrastiveDivergence(model, sampler, k_steps=steps, energy_reg_weight=0.0, device=x.device)
    return lambda: divergence(x)[0]  # type: ignore[no-any-return]


def _ebmkit(net: nn.Module, x: Tensor, steps: int) -> Loss:
    from ebm.losses.cd import ContrastiveDivergence

    # its chains start from noise if it is not told otherwise
    divergence = ContrastiveDivergence(ebmkit_sampler(steps), init_fn=lambda shape: x)
    return lambda: divergence(net, x).loss  # type: ignore[no-any-return]


def _ebmzoo(net: nn.Module, x: Tensor, steps: int, precision: str, channels_last: bool) -> Loss:
    sampler = Langevin(steps, STEP_SIZE, NOISE, precision="ambient", channels_last=channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def loss() -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            both = net(torch.cat([x.to(memory_format=layout), sampler(net, x)]))
        return both[: len(x)].mean() - both[len(x) :].mean()  # type: ignore[no-any-return]

    return loss
