"""A replay buffer of chain states: draw starts, run the chain, store the ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ebmzoo.data.images import to_float, to_uint8
from ebmzoo.errors import UserError


class ReplayBuffer(nn.Module):
    """Chain states that are kept from one iteration to the next, as module buffers, so that checkpoints contain them.

    `slot` (CLEL): The buffer starts full of noise; n different slots are drawn, and the ends written back to them.
    `ring` (IGEBM): The buffer starts empty; states are drawn with replacement, and the oldest are overwritten.
    `reservoir` (Improved CD): The buffer starts empty; it is a uniform sample of all states ever stored (Vitter 1985).

    Each drawn state is replaced by fresh noise with probability `reinit_prob`. Each process has its own buffer.

    >>> buffer = ReplayBuffer(size=4, shape=(1, 2, 2), policy="ring")
    >>> buffer.store(torch.ones(4, 1, 2, 2), slots=torch.arange(4))
    >>> states, slots = buffer.draw(3)
    >>> torch.equal(states, torch.ones(3, 1, 2, 2)), slots.shape
    (True, torch.Size([3]))

    Args:
        size: Number of states.
        shape: Shape of one state, (C, H, W).
        policy: `slot`, `ring` or `reservoir`, as above.
        reinit_prob: Probability that a drawn state is replaced by noise.
        noise: Law of fresh states: uniform on [-1, 1], or normal with mean 0 and variance 1.
        storage: `uint8` takes a quarter of the memory and rounds a state to 1/255 of its range.

    Raises:
        UserError: If `size` is below 1 or `reinit_prob` not in [0, 1].
    """

    states: Tensor
    stored: Tensor

    def __init__(
        self,
        size: int,
        shape: tuple[int, int, int],
        policy: Literal["slot", "ring", "reservoir"] = "slot",
        reinit_prob: float = 0.0,
        noise: Literal["uniform", "normal"] = "uniform",
        storage: Literal["float32", "uint8"] = "float32",
    ) -> None:
        super().__init__()
        if size < 1:
            raise UserError(f"replay.size is {size}; it must be 1 or more")
        if not 0 <= reinit_prob <= 1:
            raise UserError(f"replay.reinit_prob is {reinit_prob}; it must be a probability, between 0 and 1")
        self.size = size
        self.shape = (shape[0], shape[1], shape[2])
        self.policy = policy
        self.reinit_prob = reinit_prob
        self.noise = noise
        dtype = torch.uint8 if storage == "uint8" else torch.float32
        self.register_buffer("states", torch.zeros(size, *shape, dtype=dtype))
        self.register_buffer("stored", torch.zeros((), dtype=torch.int64))
        self.count = 0  # `stored` on the host, so that drawing does not wait for the device
        self.register_load_state_dict_post_hook(_count)  # type: ignore[no-untyped-call]
        if policy == "slot":
            self.states.copy_(self._pack(self.fresh(size)))

    def fresh(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Return `n` new starts of noise, `(n, *shape)`."""
        new = torch.empty(n, *self.shape, device=self.states.device)
        return new.uniform_(-1, 1, generator=generator) if self.noise == "uniform" else new.normal_(generator=generator)

    @torch.no_grad()
    def draw(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        renew: bool = True,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return `n` starts `(n, *shape)` and their slots `(n,)`, which the caller passes on to `store`.

        Args:
            n: Number of starts.
            generator: Source of randomness; None is torch's global generator.
            renew: Whether states are replaced by noise with probability `reinit_prob`. If False, only the starts from
                an empty buffer are noise.
            change: What is done to the states of the buffer, an augmentation for example, and not to fresh noise.

        Raises:
            UserError: If the policy is `slot` and `n` is larger than the buffer.
        """
        device = self.states.device
        if self.policy == "slot":
            if n > self.size:
                raise UserError(f"replay.size is {self.size}, too small to draw {n} different slots")
            slots = torch.randperm(self.size, device=device, generator=generator)[:n]
        else:
            filled = max(1, min(self.count, self.size))
            slots = torch.randint(filled, (n,), device=device, generator=generator)
        anew = torch.rand(n, device=device, generator=generator) < (self.reinit_prob if renew else 0.0)
        if self.policy != "slot" and self.count == 0:
            anew[:] = True
        new = self.fresh(n, generator)
        keep = anew.logical_not().view(-1, *[1] * len(self.shape))
        old = self._unpack(self.states[slots])
        return torch.where(keep, old if change is None else change(old), new), slots

    def renewed(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return `x`, `(n, *shape)`, with each state replaced by fresh noise with probability `reinit_prob`."""
        anew = torch.rand(len(x), device=x.device, generator=generator) < self.reinit_prob
        return torch.where(anew.view(-1, *[1] * len(self.shape)), self.fresh(len(x), generator), x)

    @torch.no_grad()
    def store(self, x: Tensor, slots: Tensor, generator: torch.Generator | None = None) -> None:
        """Store the ends of chains.

        Args:
            x: The ends, `(n, *shape)`, clamped to [-1, 1] with uint8 storage.
            slots: The slots `(n,)` that `draw` returned; only the policy `slot` uses them.
            generator: Source of randomness; None is torch's global generator.
        """
        n, device = len(x), self.states.device
        if self.policy == "slot":
            self.states[slots] = self._pack(x)
        elif self.policy == "ring":
            x = x[-self.size :]
            self.states[(self.count + n - len(x) + torch.arange(len(x), device=device)) % self.size] = self._pack(x)
        else:
            order = self.count + torch.arange(n, device=device)
            pick = (torch.rand(n, device=device, generator=generator) * (order + 1)).long()
            where = torch.where(order < self.size, order, pick)
            # Of several states for one slot the last is kept; the others write back what the slot contains.
            to = torch.where(where < self.size, where, self.size)
            last = torch.full((self.size + 1,), -1, device=device).scatter_reduce(0, to, order - self.count, "amax")
            slots = torch.where(where < self.size, where, 0)
            writer = last[slots].view(-1, *[1] * len(self.shape))
            packed = self._pack(x)[last[slots].clamp_min(0)]
            self.states[slots] = torch.where(writer >= 0, packed, self.states[slots])
        self.stored += n
        self.count += n

    def _pack(self, x: Tensor) -> Tensor:
        if self.states.dtype == torch.uint8:
            return to_uint8(x)
        return x.to(self.states.dtype)  # which the precision 64-true makes float64

    def _unpack(self, states: Tensor) -> Tensor:
        return to_float(states) if states.dtype == torch.uint8 else states


def _count(buffer: ReplayBuffer, _: Any) -> None:
    buffer.count = int(buffer.stored)
