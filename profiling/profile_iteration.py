"""`python -m profiling.profile_iteration`: where the time of an iteration goes, what `ddp` costs, what it hands on."""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ebmzoo.methods import LIEBM, DenoisingEBM, Method
from ebmzoo.methods.base.averaging import Average
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.replay import ReplayBuffer
from ebmzoo.ssrl import Augment
from ebmzoo.training.config import build_model
from ebmzoo.training.config_files import named_config
from ebmzoo.training.trainer import DEFAULTS, ZooTrainer
from profiling.iterations import METHODS, QUIET, STYLES, Noise, of_method

PAPERS = (
    "liebm_cifar",
    "clel_cifar",
    "clel_large_cifar",
    "cdrl_cifar",
    "cdrl_large_cifar",
    "dual_mcmc_paper_cifar",
    "denoising_ebm_paper_cifar",
)
PARTS = {
    "networks": "forward passes, and all backward passes",
    "chains": "what Langevin steps do beside the network",
    "trained_networks": "gradient norms, optimizers, averages",
    "augmentation": "random views",
    "buffer": "replay",
    "losses": "the rest of the training step",
    "trainer": "between training steps: data, hooks, readings",
}


class Stopwatch:
    """Seconds by part, each without what is nested in it."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self.open = device, Counter[str](), ["trainer"]
        self.last = time.perf_counter()

    def turn(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[self.open[-1]] += now - self.last
        self.last = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if part == self.open[-1] == "networks":
                return function(*args, **kwargs)
            self.turn()
            self.open.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.turn()
                self.open.pop()

        return call


class Counted(Callback):
    """Seconds of every iteration, from the end of the one before; with a stopwatch, by part."""

    def __init__(self, watch: Stopwatch | None) -> None:
        self.watch, self.ends = watch, []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self.ends.append(time.perf_counter())
        if self.watch is not None and len(self.ends) == 1:  # the first iteration warms up
            self.watch.turn()
            self.watch.seconds.clear()


def module_of(config: str) -> tuple[Method, int]:
    """A config's method, in the stage that trains its energy, and its batch size."""
    text = named_config(config)
    torch.manual_seed(0)
    module = build_model(text)
    assert isinstance(module, Method)
    if isinstance(module, LIEBM):
        module.encoder_checkpoint = module.encoder_stage = None  # any encoder will do
    if isinstance(module, DenoisingEBM):
        module.learning = replace(module.learning, warmup=0)
    return module, yaml.safe_load(text)["data"]["init_args"]["batch_size"]


@contextmanager
def watched(module: Method, watch: Stopwatch) -> Iterator[None]:
    """Within it the watch runs by part."""
    with ExitStack() as stack:

        def put(owner: Any, name: str, part: str) -> None:
            stack.enter_context(patch.object(owner, name, watch.timed(part, getattr(owner, name))))

        for network in module.children():
            if network is not module.averages and not isinstance(network, ReplayBuffer | Augment):
                own = [n for n in dir(type(network)) if not n.startswith("_") and not hasattr(nn.Module, n)]
                for name in ["forward", *own]:
                    if callable(getattr(network, name)) and not isinstance(getattr(network, name), nn.Module):
                        put(network, name, "networks")
        put(torch.autograd, "grad", "networks")
        put(torch.Tensor, "backward", "networks")
        put(Langevin, "__call__", "chains")
        put(Method, "minimize", "trained_networks")
        put(Average, "update_parameters", "trained_networks")
        put(Augment, "forward", "augmentation")
        put(ReplayBuffer, "draw", "buffer")
        put(ReplayBuffer, "store", "buffer")
        put(Method, "training_step", "losses")
        yield


def fitted(module: Method, batch: int, steps: int, folder: str, **changes: Any) -> None:
    settings: dict[str, Any] = {"max_steps": steps, "max_epochs": -1, "limit_val_batches": 0, "devices": 1}
    trainer = ZooTrainer(**DEFAULTS | QUIET | settings | {"default_root_dir": folder} | changes)
    trainer.fit(module, Noise(batch_size=batch))


def shares(config: str, iterations: int, precision: str, folder: str) -> tuple[float, dict[str, float]]:
    """Seconds of an iteration, and the share of each part in it."""
    module, batch = module_of(config)
    watch = Stopwatch(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    with watched(module, watch):
        fitted(module, batch, iterations + 1, folder, callbacks=[Counted(watch)], precision=precision)
        watch.turn()
    total = sum(watch.seconds.values())
    return total / iterations, {part: watch.seconds[part] / total for part in PARTS}


def cost_of_ddp(config: str, iterations: int, rounds: int, folder: str) -> tuple[float, float]:
    """Seconds of an iteration without `ddp`, and how many times as many with it in one process: medians, in turn."""
    taken: dict[str, list[float]] = {"auto": [], "ddp": []}
    for _ in range(rounds):
        for strategy, seconds in taken.items():
            module, batch = module_of(config)
            counted = Counted(None)
            fitted(module, batch, iterations + 1, folder, callbacks=[counted], strategy=strategy)
            seconds.append(statistics.median(b - a for a, b in zip(counted.ends, counted.ends[1:], strict=False)))
    ratio = statistics.median(b / a for a, b in zip(taken["auto"], taken["ddp"], strict=True))
    return statistics.median(taken["auto"]), ratio


@contextmanager
def graphs() -> Iterator[Counter[str]]:
    """Counts the bytes that the graphs of autograd keep within it: `now`, and at their `peak`."""
    live = Counter[str]()

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor
            live["now"] += tensor.nbytes
            live["peak"] = max(live["peak"], live["now"])

        def __del__(self) -> None:
            live["now"] -= self.tensor.nbytes

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda one: one.tensor):
        yield live


def kept(config: str, precision: str) -> dict[int, float]:
    """MB that the graphs of a chain keep at most, by its number of steps, at the config's batch size."""
    module, batch = module_of(config)
    x, found = torch.rand(batch, 3, 32, 32), {}
    for steps in (1, 10):
        with graphs() as live:
            Langevin(steps, 1.0, 0.01, precision=precision)(module.network("energy_net"), x)  # type: ignore[arg-type]
        found[steps] = live["peak"] / 1e6
    return found


def kept_by_iteration(config: str, folder: str) -> dict[str, float]:
    """MB that the graphs of an iteration of batch 32 keep at most: with the plain loop for its chains, and as here."""
    found = {}
    for name, (precision, style) in STYLES.items():
        with graphs() as live:
            of_method(config, 32, 1, precision, style, Path(folder))
        found[name] = live["peak"] / 1e6
    return found


def steps(config: str, rounds: int = 30) -> dict[str, float]:
    """Milliseconds of CPU time of a step of Adam, and of an average's, on the config's energy: medians, in turn."""
    net = module_of(config)[0].network("energy_net")
    reference = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.99))  # type: ignore[no-untyped-call]
    ours = Average(net, 0.99, 0)
    contenders: dict[str, Callable[[], Any]] = {
        "torch's average": lambda: reference.update_parameters(net),
        "average": lambda: ours.update_parameters(net),
    }
    for name, flags in {"Adam": {}, "Adam, foreach": {"foreach": True}, "Adam, fused": {"fused": True}}.items():
        one = copy.deepcopy(net)
        for p in one.parameters():
            p.grad = torch.randn_like(p)
        contenders[name] = torch.optim.Adam(one.parameters(), 1e-4, **flags).step
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            start = time.process_time()
            work()
            taken[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(spent) for name, spent in taken.items()}


def handed_on(config: str, folder: str) -> tuple[dict[str, int], list[tuple[str, ...]]]:
    """Parameters by network, and the networks of each descent, seen in an iteration of two images without chains."""
    module, _ = module_of(config)
    minimize, seen = Method.minimize, []

    def noted(self: Method, loss: Tensor, *names: str) -> Tensor:
        seen.append(names)
        return minimize(self, loss, *names)

    def still(self: Langevin, energy: Any, x: Tensor, **_: Any) -> Tensor:
        return x.detach()

    with patch.object(Method, "minimize", noted), patch.object(Langevin, "__call__", still):
        fitted(module, 2, 1, folder, accelerator="cpu")
    return {n: sum(p.numel() for p in d.network.parameters()) for n, d in module.trained_networks().items()}, seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--ask",
        nargs="+",
        choices=["shares", "ddp", "bytes", "memory", "iteration-memory", "steps"],
        default=["shares"],
    )
    parser.add_argument("--configs", nargs="+", help="names of configurations; those of the benchmark by default")
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="32-true", help="of the shares")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        if "shares" in args.ask:
            print("| Config | s/iteration | " + " | ".join(PARTS) + " |\n|" + "---|" * (len(PARTS) + 2))
            for config in args.configs or METHODS.values():
                seconds, parts = shares(config, args.iterations, args.precision, folder)
                told = " | ".join(f"{100 * share:.1f}%" for share in parts.values())
                print(f"| `{config}` | {seconds:.2f} | {told} |", flush=True)
        if "ddp" in args.ask:
            print("| Config | s/iteration | `ddp` of one process takes |\n|---|---|---|")
            for config in args.configs or METHODS.values():
                with redirect_stderr(StringIO()):
                    seconds, ratio = cost_of_ddp(config, args.iterations, args.rounds, folder)
                print(f"| `{config}` | {seconds:.2f} | {ratio:.2f} × |", flush=True)
        if "memory" in args.ask:
            print("| Config | precision | MB kept by 1 step | by 10 |\n|---|---|---|---|")
            for config in args.configs or ("liebm_small_narrow_cifar", "dual_mcmc_small_cifar"):
                for precision in ("fp32", "bf16"):
                    told = " | ".join(f"{size:.1f}" for size in kept(config, precision).values())
                    print(f"| `{config}` | {precision} | {told} |", flush=True)
        if "iteration-memory" in args.ask:
            print("| Config | MB kept by an iteration: " + " | ".join(STYLES) + " |\n|" + "---|" * (len(STYLES) + 1))
            for config in args.configs or METHODS.values():
                told = " | ".join(f"{size:.1f}" for size in kept_by_iteration(config, folder).values())
                print(f"| `{config}` | {told} |", flush=True)
        if "steps" in args.ask:
            for config in args.configs or ("liebm_small_narrow_cifar",):
                print(config, ", ".join(f"{name} {spent:.2f} ms" for name, spent in steps(config).items()))
        if "bytes" in args.ask:
            print("| Config | parameters, millions | descents of an iteration | MB |\n|---|---|---|---|")
            for config in args.configs or PAPERS:
                sizes, seen = handed_on(config, folder)
                million = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sizes.items())
                descents = ", ".join(f"{n} × {'+'.join(names)}" for names, n in Counter(seen).items())
                total = 4 * sum(sizes[name] for names in seen for name in names) / 1e6
                print(f"| `{config}` | {million} | {descents} | {total:.0f} |", flush=True)


if __name__ == "__main__":
    main()
