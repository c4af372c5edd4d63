"""Counting what operations cost: their arithmetic, and the bytes of the tensors that they make."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
GRANULE = 512
"""CUDA's allocator rounds each tensor up to a multiple of this many bytes."""


class CostMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts FLOP and bytes of all operations within it, on fake tensors, whose values nobody can ask for.

    A product and a sum are two FLOP. Matrix products and convolutions count, forwards and backwards, by torch's own
    table (`torch.utils.flop_counter`, whose counter cannot follow `autograd.grad`); all others, such as norms,
    activations and random numbers, do not. Where the host asks for a value it gets 1 or True, and 0 for an integer;
    where it asks for the places of nonzero elements there are none, as in a chain that is finite.

    >>> from torch._subclasses.fake_tensor import FakeTensorMode
    >>> with FakeTensorMode(), CostMode() as cost:
    ...     y = torch.empty(2, 3) @ torch.empty(3, 4)
    >>> cost.flop, cost.peak  # 2·3·4 products and sums; three tensors of up to 512 bytes
    (Counter({torch.float32: 48}), 1536)

    Attributes:
        flop: FLOP by the type of the numbers that are multiplied.
        now: Bytes of the tensors that live.
        peak: The largest `now` since the beginning, or since `forget_peak`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flop: Counter[torch.dtype] = Counter()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    @property
    def total(self) -> int:
        """FLOP of all types."""
        return sum(self.flop.values())

    def forget_peak(self) -> None:
        """Begin a new peak, at the bytes that live now."""
        self.peak = self.now

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that were made before."""
        for tensor in tensors:
            self._track(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            return _value_of(args[0].dtype)
        if func is aten.nonzero.default:
            return args[0].new_empty((0, args[0].dim()), dtype=torch.int64)
        out = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flop[_type_of(args)] += count(*args, **kwargs, out_val=out)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._track(leaf)
        return out

    def _track(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:  # else a view, or a change in place
            self._sizes[key] = size = -(-storage.nbytes() // GRANULE) * GRANULE
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key).atexit = False

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def _value_of(dtype: torch.dtype) -> bool | int | float:
    return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 0


def _type_of(args: Sequence[Any]) -> torch.dtype:
    """The type of the numbers that an operation multiplies: its second tensor's, as a bias may be the first."""
    found: list[torch.dtype] = [arg.dtype for arg in args if isinstance(arg, Tensor)]
    return found[1]
