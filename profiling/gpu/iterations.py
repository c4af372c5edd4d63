"""Iterations of the five methods at paper size and batch: seconds, and the peak of memory."""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from profiling.gpu import device as at
from profiling.gpu.options import Options
from profiling.gpu.record import Record
from profiling.iterations import METHODS, Clock
from profiling.profile_iteration import fitted, module_of

PAPERS = {
    "Denoising-EBM": "denoising_ebm_paper_cifar",
    "Dual-MCMC": "dual_mcmc_paper_cifar",
    "LIEBM": "liebm_cifar",
    "CLEL": "clel_cifar",
    "CDRL": "cdrl_cifar",
}
MOST = 10
"""The most iterations that are timed."""


class UntilTime(Clock):
    """Times iterations, and stops the fit when there is no time for another, or there have been enough."""

    def __init__(self, end: float, most: int) -> None:
        super().__init__()
        self.end, self.most = end, most

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args, **kwargs)
        timed = len(self.seconds) - 1  # the first warms up
        if timed >= self.most or (timed >= 1 and time.monotonic() + self.seconds[-1] > self.end):
            trainer.should_stop = True


def measure(record: Record, options: Options) -> None:
    """Each method has an equal share of the time that is left."""
    small = options.rehearse
    methods = {name: METHODS[name] for name in ("LIEBM",)} if small else PAPERS
    record.put(machine=at.facts())
    for i, (name, config) in enumerate(methods.items()):
        if record.left <= 0:
            record.add("methods", name, {"skipped": "the time was up"})
            continue
        with record.failures_of("methods", name):
            end = time.monotonic() + record.left / (len(methods) - i)
            record.add("methods", name, of_method(config, end, small))


def of_method(config: str, end: float, small: bool) -> dict[str, Any]:
    """An iteration in bf16, of the energy's stage."""
    module, batch = module_of(config)
    batch = 4 if small else batch
    clock = UntilTime(end, 1 if small else MOST)
    at.forget_peak()
    with tempfile.TemporaryDirectory() as folder:
        fitted(module, batch, 1 + clock.most, folder, callbacks=[clock], precision="bf16-mixed", accelerator="auto")
    seconds = clock.seconds[1:]
    return {
        "config": config,
        "batch": batch,
        "seconds": round(statistics.median(seconds), 4),
        "least": round(min(seconds), 4),
        "most": round(max(seconds), 4),
        "timed": len(seconds),
        "images_a_second": round(batch / statistics.median(seconds), 1),
        "peak_gib": at.peak_gib(),
    }
