"""Tables of what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from profiling.timing import Timed

PEERS = ("torchebm", "ebmkit")


def rows(timed: Mapping[str, Timed], bound: Mapping[str, float], reference: str) -> list[list[str]]:
    """Contender, milliseconds (median, least–most), times as fast as the reference and the peers, share of the rate."""
    peers = [peer for peer in PEERS if peer in timed]
    head = ["", "ms, median (least–most)", f"speed-up on the {reference}", *(f"on {peer}" for peer in peers)]
    found = [[*head, "of the convolutions' rate", "over the network alone"]]
    for name, of in timed.items():
        low, high = of.spread
        row = [name, f"{1e3 * of.median:.4g} ({1e3 * low:.4g}–{1e3 * high:.4g})"]
        row += [f"{timed[other].over(of):.2f}" for other in (reference, *peers)]
        precision = next((p for p in bound if name.endswith(p)), "fp32" if bound else None)
        row.append(f"{bound[precision] / of.median:.0%}" if precision else "–")
        alone = timed.get(name.replace("ebmzoo", "network alone")) if name.startswith("ebmzoo,") else None
        row.append(f"{of.over(alone) - 1:+.1%}" if alone else "–")
        found.append(row)
    empty = {at for at in range(len(found[0])) if all(row[at] == "–" for row in found[1:])}
    return [[cell for at, cell in enumerate(row) if at not in empty] for row in found]


def table(title: str, timed: Mapping[str, Timed], bound: Mapping[str, float], reference: str) -> str:
    """For a terminal."""
    found = rows(timed, bound, reference)
    widths = [max(len(row[at]) for row in found) for at in range(len(found[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if not at else cell.rjust(w) for at, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in found
    ]
    return "\n".join(["", title, lines[0], "─" * len(lines[0]), *lines[1:]])


def markdown(told: Mapping[str, Any]) -> str:
    """For a page."""
    parts = [", ".join(f"{key} {value}" for key, value in told["machine"].items())]
    for name, of in told.get("steps", {}).items():
        parts.append(_markdown(f"One Langevin step of {name}", of["seconds"], of["ceiling"], "plain loop"))
    for name, timed in told.get("iterations", {}).items():
        reference = "plain loop" if "plain loop" in timed else "plain chains, fp32"
        parts.append(_markdown(f"One iteration of {name}", timed, {}, reference))
    return "\n\n".join(parts) + "\n"


def _markdown(title: str, timed: Mapping[str, Timed], bound: Mapping[str, float], reference: str) -> str:
    head, *rest = rows(timed, bound, reference)
    lines = [head, ["---"] * len(head), *rest]
    return f"{title}:\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)
