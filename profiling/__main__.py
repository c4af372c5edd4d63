"""`python -m profiling`: the chain and the iterations beside others, as a table, JSON and Markdown."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from ebmzoo.commands.estimate.rate import rate
from ebmzoo.errors import UserError
from profiling import growth
from profiling.ceiling import flops
from profiling.chains import chains, disagreement
from profiling.gpu import session
from profiling.gpu.options import Options
from profiling.iterations import METHODS, contrastive_divergence, disagreement_of_losses, of_methods, of_schedule
from profiling.networks import energies, seeded
from profiling.report import markdown, table
from profiling.timing import Timed, in_turn


def steps_of_chains(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Seconds a step of each contender on each energy, and the time that its arithmetic takes at the measured rate."""
    torch.manual_seed(0)
    told = {}
    for name, net in seeded(energies(args.tiny), device).items():
        x = torch.rand(args.batch, 3, 32, 32, device=device) * 2 - 1
        agreed = disagreement(net, x[:4], 2)
        bound = {}
        for precision, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
            shape = (8, 16, 8, 8) if args.tiny else (args.batch, 256, 16, 16)
            bound[precision] = flops(net, x) / rate(device, dtype, shape)
        timed = in_turn(chains(net, x, args.steps, args.compile), args.rounds, device, per=args.steps)
        told[name] = {"disagreement": agreed, "ceiling": bound, "seconds": timed}
        print(table(f"one Langevin step of {name}, batch {args.batch}, 32×32", timed, bound, "plain loop"), flush=True)
    return told


def iterations(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Seconds an iteration of each method, and of contrastive divergence beside the other libraries'."""
    torch.manual_seed(0)
    name, net = next(iter(seeded(energies(args.tiny), device).items()))
    batch = args.batch if args.tiny else args.batch // 2
    x = torch.rand(batch, 3, 32, 32, device=device) * 2 - 1
    disagreement_of_losses(net, x[:4], 2)
    timed = in_turn(contrastive_divergence(net, x, args.steps), args.rounds, device)
    told: dict[str, Any] = {"contrastive divergence": timed}
    title = f"one iteration of contrastive divergence, {args.steps} steps, {name}, batch {batch}"
    print(table(title, timed, {}, "plain loop"), flush=True)
    methods = dict(list(METHODS.items())[:1]) if args.tiny else METHODS
    with tempfile.TemporaryDirectory() as folder:
        rounds, each = 1 if args.tiny else args.rounds, 1
        for method, found in of_methods(methods, 4 if args.tiny else 32, rounds, each, Path(folder)).items():
            told[method] = found
            title = f"one iteration of {method}, config {METHODS[method]}"
            print(table(title, found, {}, "plain chains, fp32"), flush=True)
    return told


def machine(device: torch.device) -> dict[str, Any]:
    capability = torch.backends.cpu.get_cpu_capability()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()}, {capability}"
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load before": os.getloadavg()[0],
    }


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run, print and keep the figures; gives them too."""
    parser = argparse.ArgumentParser(prog="python -m profiling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender")
    parser.add_argument("--steps", type=int, default=1, help="steps of a chain")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--only", choices=("steps", "iterations"), help="one of the two parts")
    parser.add_argument(
        "--compile", action="store_true", help="also our chain with `compile`, minutes of compiling each"
    )
    parser.add_argument(
        "--schedule", action="store_true", help="also LIEBM's full run on CIFAR-10, projected; on a GPU"
    )
    parser.add_argument("--quick", action="store_true", help="two rounds of a small batch: to see that all runs")
    parser.add_argument("--tiny", action="store_true", help="networks of a few weights, for the tests")
    parser.add_argument("--growth", action="store_true", help="instead: how costs grow with sizes; --rounds, --quick")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="the folder of the figures")
    on_gpu = parser.add_argument_group("on a GPU that is there for some minutes")
    on_gpu.add_argument("--gpu", action="store_true", help="instead of all else: tests, chains, iterations and a run")
    on_gpu.add_argument("--minutes", type=float, default=12.0, help="the time for all of it")
    on_gpu.add_argument("--images", type=Path, help="CIFAR-10 as a folder, archive or .npz, for LIEBM")
    on_gpu.add_argument("--encoder", type=Path, help="a checkpoint with LIEBM's encoder of such images")
    on_gpu.add_argument("--classifier", type=Path, help="a checkpoint with a classifier of such images")
    on_gpu.add_argument("--rehearse", action="store_true", help="all of it at toy size, on any device")
    args = parser.parse_args(argv)
    if args.gpu:
        try:
            options = Options(args.out, args.rehearse, args.images, args.encoder, args.classifier)
            return session.run(options, args.minutes)
        except UserError as error:
            parser.error(str(error))
    if args.growth:
        return growth.run(args.out, args.rounds, args.quick)
    if args.quick:
        args.rounds, args.batch = 2, 16
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    told: dict[str, Any] = {"machine": machine(device)}
    print(", ".join(f"{key} {value}" for key, value in told["machine"].items()))
    if args.only != "iterations":
        told["steps"] = steps_of_chains(args, device)
    if args.only != "steps":
        told["iterations"] = iterations(args, device)
    if args.schedule:
        with tempfile.TemporaryDirectory() as folder:
            told["hours of LIEBM's schedule"] = hours = of_schedule(10, Path(folder))
        for config, of_stage in hours.items():
            print(f"{config}, all of it at this speed: {of_stage:.1f} h")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{device.type}.json").write_text(json.dumps(told, indent=2, default=_plain) + "\n")
    (args.out / f"{device.type}.md").write_text(markdown(told))
    print(f"figures: {args.out / device.type}.json, as a table for a page: {args.out / device.type}.md")
    return told


def _plain(value: object) -> object:
    assert isinstance(value, Timed)
    return {"median": value.median, "least": value.spread[0], "most": value.spread[1], "seconds": value.seconds}


if __name__ == "__main__":
    main()
