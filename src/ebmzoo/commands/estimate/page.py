"""What is printed of an estimate: a page of text for one config, and a Markdown table of many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ebmzoo.commands.estimate.devices import DEVICES, Device
from ebmzoo.commands.estimate.estimate import USABLE, Estimate
from ebmzoo.commands.estimate.evaluation import added

FRACTION = 0.3
"""The share of a device's published rate that convolutions of these sizes are taken to reach."""
GIB = 2**30
PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))
HEADS = ("config", "parameters", "batch", "TFLOP an iteration", "iterations", "EFLOP in all", "peak GiB")


def text(estimate: Estimate, devices: Sequence[Device], fraction: float) -> str:
    """The estimate of one config, for a terminal."""
    lines = [
        "An estimate, counted from the shapes of fake tensors: nothing of the run was run or timed.",
        "",
    ]
    lines += [f"parameters of {name}: {count:,}" for name, count in estimate.parameters.items()]
    for phase, cost in estimate.phases:
        length = "without end" if phase.iterations is None else f"{phase.iterations:,} iterations"
        lines.append(
            f"{phase.name}, {length} of {estimate.batch} images: {_si(cost.total)}FLOP and at most "
            f"{cost.peak / GIB:.2f} GiB of tensors in one"
        )
    schedule = estimate.schedule
    if schedule is None:
        lines.append("the whole run: not known without its length; set trainer.max_steps, or --images with max_epochs")
    else:
        lines.append(f"the whole run: {_si(sum(schedule.values()))}FLOP, without validation and sample grids")
    if estimate.test is not None:
        for name, flop in estimate.test.flop.items():
            lines.append(f"test, {name}: {_si(sum(flop.values()))}FLOP, without its feature extractors")
        if estimate.test.uncounted:
            lines.append(f"test, not counted: {', '.join(estimate.test.uncounted)}")
    lines.append("")
    for device in devices:
        lines.append(f"{device.name} ({device.source}): {_rates(device, fraction)}")
        if schedule is not None:
            lines.append(
                f"    training {_hours(device.hours(schedule, fraction))}" + _test_hours(estimate, device, fraction)
            )
        lines.append(f"    {_fit(estimate, device)}")
    return "\n".join(lines)


def _si(value: float) -> str:
    """A number with its prefix, before a unit."""
    factor, prefix = next((pair for pair in PREFIXES if value >= pair[0]), PREFIXES[-1])
    return f"{value / factor:,.3g} {prefix}"


def _rates(device: Device, fraction: float) -> str:
    rates = f"{_si(fraction * device.bf16)}FLOP/s in bf16, {_si(fraction * device.fp32)}FLOP/s in fp32"
    return rates if fraction == 1 else f"{fraction:.0%} of its rate, {rates}"


def _test_hours(estimate: Estimate, device: Device, fraction: float) -> str:
    if estimate.test is None or not estimate.test.flop:
        return ""
    return f", the tasks counted above {_hours(device.hours(added(*estimate.test.flop.values()), fraction))}"


def _hours(hours: float) -> str:
    if math.isnan(hours):
        return "–"
    return f"{hours * 60:.2g} min" if hours < 1 else f"{hours:.3g} h" if hours < 1000 else f"{hours:,.0f} h"


def _fit(estimate: Estimate, device: Device) -> str:
    if math.isinf(device.memory):
        return f"{estimate.peak / GIB:.2f} GiB of tensors are needed"
    found = estimate.fitting(device)
    room = f"{USABLE:.0%} of its {device.memory / 1e9:.0f} GB"
    if found is None:
        return f"not even a batch of 1 fits into {room}"
    batch, parts = found
    if parts == 1:
        return f"the batch of {batch} fits into {room}"
    if estimate.accumulates:
        return f"fits into {room} with --data.batch_size {batch} --trainer.accumulate_grad_batches {parts}"
    return f"only a batch of {batch} fits into {room}, and this method cannot accumulate gradients"


def table(estimates: Mapping[str, Estimate], fraction: float) -> str:
    """The estimates of many configs, as a Markdown table with the hours on each of `DEVICES`."""
    heads = [*HEADS, *(device.name for device in DEVICES)]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    return "\n".join([*lines, *(row(name, one, fraction) for name, one in estimates.items())])


def row(name: str, estimate: Estimate, fraction: float) -> str:
    """One row of the table."""
    schedule = estimate.schedule
    cells = [
        f"`{name}`",
        ", ".join(f"{part} {count / 1e6:.1f} M" for part, count in estimate.parameters.items()),
        str(estimate.batch),
        ", ".join(f"{cost.total / 1e12:.3g}" for _, cost in estimate.phases),
        ", ".join("–" if phase.iterations is None else f"{phase.iterations:,}" for phase, _ in estimate.phases),
        "–" if schedule is None else f"{sum(schedule.values()) / 1e18:.3g}",
        f"{estimate.peak / GIB:.1f}",
    ]
    for device in DEVICES:
        hours = "–" if schedule is None else _hours(device.hours(schedule, fraction))
        cells.append(hours + _parts(estimate, device))
    return "| " + " | ".join(cells) + " |"


def _parts(estimate: Estimate, device: Device) -> str:
    found = estimate.fitting(device)
    if found is None:
        return ", does not fit"
    batch, parts = found
    if parts == 1:
        return ""
    return f", {batch} × {parts}" if estimate.accumulates else f", batch {batch} only"
