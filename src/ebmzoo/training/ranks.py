"""The buffers that each process of a run has for itself: gathered for a checkpoint, which process 0 writes."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def of_all(mine: T) -> list[T]:
    """What each process gives, a small thing, in the order of the processes; every one must call it."""
    if processes() == 1:
        return [mine]
    everyone: list[T | None] = [None] * processes()
    dist.all_gather_object(everyone, mine)
    return cast("list[T]", everyone)


def buffers_of_others(module: nn.Module) -> list[dict[str, Tensor]]:
    """Of the processes 1, 2, … the buffers that are not as process 0's; on process 0, and empty on the others.

    Weights are alike in all processes, buffers need not be: replay buffers, batch statistics. One process at a time
    sends its own, so that process 0 has room for two sets and what differs. Every process must call it.
    """
    if processes() == 1:
        return []
    kept = module.state_dict(keep_vars=True)
    mine = {name: buffer.detach() for name, buffer in module.named_buffers() if name in kept}
    packed = torch.cat([_bytes(buffer) for buffer in mine.values()]) if mine else torch.empty(0, dtype=torch.uint8)
    if dist.get_rank() != 0:
        if len(packed):
            dist.send(packed, 0)
        return []
    found = []
    for rank in range(1, processes()):
        theirs = torch.empty_like(packed)
        if len(packed):
            dist.recv(theirs, rank)
        parts = torch.split(theirs, [buffer.nbytes for buffer in mine.values()])
        others = {name: part for (name, buffer), part in zip(mine.items(), parts, strict=True) if _differ(buffer, part)}
        found.append({name: _like(mine[name], part) for name, part in others.items()})
    return found


def _bytes(buffer: Tensor) -> Tensor:
    return buffer.contiguous().flatten().view(torch.uint8)


def _differ(buffer: Tensor, part: Tensor) -> bool:
    return not torch.equal(_bytes(buffer), part)  # bytes: NaN is as itself


def _like(buffer: Tensor, part: Tensor) -> Tensor:
    return part.clone().view(buffer.dtype).view(buffer.shape).cpu()
