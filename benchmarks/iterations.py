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

from benchmarks.chains import as_torchebm, plain
from benchmarks.timing import Timed, Work, wait
from ebmzoo.data import ImageData, ImageSet
from ebmzoo.energy import Energy
from ebmzoo.langevin import Langevin
from ebmzoo.methods import LIEBM, DenoisingEBM
from ebmzoo.training.config import build_model
from ebmzoo.training.trainer import DEFAULTS, ZooTrainer

CONFIGS = Path(__file__).parent.parent / "configs"
METHODS = {
    "LIEBM": "small/liebm_narrow_cifar",
    "CLEL": "small/clel_cifar",
    "CDRL": "small/cdrl_cifar",
    "Dual-MCMC": "small/dual_mcmc_cifar",
    "Denoising-EBM": "small/denoising_ebm_cifar",
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
    module = build_model((CONFIGS / f"{config}.yaml").read_text())
    if isinstance(module, LIEBM):
        module.encoder_checkpoint = None  # any encoder will do
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


def contrastive_divergence(net: nn.Module, x: Tensor, steps: int) -> dict[str, Work]:
    """One iteration: a chain from noise, mean E(x) − mean E(x̃), and a step of Adam; nothing else, in all of them."""
    found: dict[str, Work] = {}

    def iteration(net: nn.Module, loss: Callable[[nn.Module], Tensor]) -> Work:
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)

        def work() -> None:
            optimizer.zero_grad()
            loss(net).backward()
            optimizer.step()

        return work

    def contrast(net: nn.Module, ends: Tensor) -> Tensor:
        return net(x).mean() - net(ends).mean()  # type: ignore[no-any-return]

    found["plain loop"] = iteration(
        copy.deepcopy(net), lambda net: contrast(net, plain(net, torch.randn_like(x), steps))
    )
    if find_spec("torchebm"):
        found["torchebm"] = iteration(copy.deepcopy(net), _torchebm(x, steps))
    if find_spec("ebm"):
        found["ebmkit"] = iteration(copy.deepcopy(net), _ebmkit(x, steps))
    for precision in ("fp32", "bf16"):
        fast = copy.deepcopy(net).to(memory_format=torch.channels_last)
        found[f"ebmzoo, {precision}"] = iteration(fast, _ebmzoo(x, steps, precision))
    return found


def _torchebm(x: Tensor, steps: int) -> Callable[[nn.Module], Tensor]:
    def loss(net: nn.Module) -> Tensor:
        from torchebm.losses import ContrastiveDivergence
        from torchebm.samplers import LangevinDynamics

        model = as_torchebm(net, x.device)
        sampler = LangevinDynamics(model, step_size=1.0, noise_scale=0.01, device=x.device)
        divergence = ContrastiveDivergence(model, sampler, k_steps=steps, energy_reg_weight=0.0, device=x.device)
        return divergence(x)[0]  # type: ignore[no-any-return]

    return loss


def _ebmkit(x: Tensor, steps: int) -> Callable[[nn.Module], Tensor]:
    def loss(net: nn.Module) -> Tensor:
        from ebm.losses.cd import ContrastiveDivergence
        from ebm.samplers.langevin import LangevinDynamics

        sampler = LangevinDynamics(step_size=1.0, steps=steps, noise_scale=0.01)
        return ContrastiveDivergence(sampler)(net, x).loss  # type: ignore[no-any-return]

    return loss


def _ebmzoo(x: Tensor, steps: int, precision: str) -> Callable[[nn.Module], Tensor]:
    sampler = Langevin(steps, 1.0, 0.01, precision="ambient")

    def loss(net: nn.Module) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            ends = sampler(net, torch.randn_like(x))
            both = net(torch.cat([x.to(memory_format=torch.channels_last), ends]))
        return both[: len(x)].mean() - both[len(x) :].mean()  # type: ignore[no-any-return]

    return loss
