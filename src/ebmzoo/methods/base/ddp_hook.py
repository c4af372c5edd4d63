"""Data-parallel processes exchange the gradients of the networks that take a step, and no others."""

# no `from __future__ import annotations`: DDP reads the hook's annotations, and not as strings

from collections.abc import Callable
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.futures import Future

SelectedParameters = Callable[[], set[int]]
"""The ids of the parameters that the present backward pass is for."""


def average_selected_gradients(meant: SelectedParameters, bucket: dist.GradBucket) -> Future[Tensor]:  # type: ignore[name-defined]
    """The mean over processes of those gradients of a bucket that are meant: a communication hook of DDP.

    DDP alone hands on the gradients of all parameters in every backward pass, those of networks that a loss does not
    reach as zeros: with n networks, n times as many bytes.
    """
    wanted = meant()
    chosen = [g for p, g in zip(bucket.parameters(), bucket.gradients(), strict=True) if id(p) in wanted]
    if len(chosen) == len(bucket.gradients()):
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]  # None is the default group
    buffer = bucket.buffer()
    if not chosen:
        done: Future[Tensor] = Future()
        done.set_result(buffer)
        return done
    flat = torch.cat([g.flatten() for g in chosen]).div_(dist.get_world_size())

    def put_back(reduced: Future[list[Tensor]]) -> Tensor:
        parts = torch.split(reduced.value()[0], [g.numel() for g in chosen])
        for gradient, part in zip(chosen, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))
        return cast(Tensor, buffer)

    return dist.all_reduce(flat, async_op=True).get_future().then(put_back)
