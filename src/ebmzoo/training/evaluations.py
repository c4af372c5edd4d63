"""How often the networks of a method are evaluated in an iteration."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ebmzoo.sampling.langevin import Langevin


class EvaluationCounter:
    """Counts evaluations of a module's networks, each of one image: a batch of B through one network is B.

    A chain's step is one evaluation of an image, as in `Samples.nfe`, and so is a generator's pass; the passes of the
    losses count too. Networks are the module's children with weights, without its averages; a method may call only a
    part, such as `energy_net.features`. It counts calls from Python: chains with `compile` make none.

    >>> import torch
    >>> net, counter = nn.ModuleDict({"energy_net": nn.Linear(2, 1)}), EvaluationCounter()
    >>> counter.start(net)
    >>> _ = net["energy_net"](torch.zeros(5, 2))
    >>> counter.stop()
    5
    """

    def __init__(self) -> None:
        self._count = 0
        self._hooks: list[RemovableHandle] = []

    def start(self, module: nn.Module) -> None:
        """Count from here on."""
        self.stop()
        for name, network in module.named_children():
            if name != "averages" and _has_weights(network):
                self._watch(network)

    def stop(self) -> int:
        """Leave the networks as they were, and return what was counted since `start`."""
        while self._hooks:
            self._hooks.pop().remove()
        count, self._count = self._count, 0
        return count

    def _watch(self, network: nn.Module) -> None:
        within = 0  # a part that is called within its network is no evaluation of its own

        def enter(_: nn.Module, args: tuple[Any, ...]) -> None:
            nonlocal within
            if not within and args and isinstance(args[0], Tensor) and args[0].ndim:
                self._count += len(args[0])
            within += 1

        def leave(*_: Any) -> None:
            nonlocal within
            within -= 1

        entrance = [part for part in network.children() if _has_weights(part)][:1]
        for module in (network, *entrance):
            self._hooks.append(module.register_forward_pre_hook(enter))
            self._hooks.append(module.register_forward_hook(leave, always_call=True))


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def countable(module: nn.Module) -> bool:
    """Whether all calls of the module's networks come from Python; those of a traced chain do not."""
    return not any(_traces(value) for value in vars(module).values())


def _traces(value: object) -> bool:
    if isinstance(value, Langevin):
        return value.compile
    if isinstance(value, type) or not is_dataclass(value):
        return False
    return any(_traces(getattr(value, field.name, None)) for field in fields(value))
