"""What a method must have, checked when its class is made, when a fit is set up, and in its first iteration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ebmzoo.errors import UserError
from ebmzoo.methods.base.optimization import NetworkOptimizer

_ARGUMENTS = {
    "iterate": ("images", "labels"),
    "energy": ("x",),
    "ood_score": ("x",),
    "sample": ("n", "labels", "steps", "generator"),
    "trained_networks": (),
}
"""The arguments that the framework gives to what a method defines."""


def check_overrides(cls: type, base: type) -> None:
    """Raises `TypeError` where a subclass defines a final member of `base`, or one with other arguments.

    A `TypeError`, as of any class that is not well made: it is raised where the class is written.
    """
    for name, member in vars(cls).items():
        if getattr(vars(base).get(name), "__final__", False):
            raise TypeError(f"{cls.__name__}.{name} may not be defined: it is the same for every method")
        if name in _ARGUMENTS and inspect.isfunction(member):
            found = inspect.signature(member).parameters
            if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in found.values()):
                continue
            if missing := [argument for argument in _ARGUMENTS[name] if argument not in found]:
                raise TypeError(
                    f"{cls.__name__}.{name} must take {', '.join(_ARGUMENTS[name])}; it lacks {', '.join(missing)}"
                )


def check_networks(method: nn.Module, trained: Mapping[str, Any], averages: nn.ModuleDict) -> None:
    """Raises `UserError` where the networks that a method names do not fit each other.

    Every value of `trained_networks()` is a `NetworkOptimizer`; every name of `averages` is one of its
    names, or that of an attribute which is the network.
    """
    name_of = type(method).__name__
    if not trained:
        raise UserError(f"{name_of}.trained_networks() is empty; it must name the networks that are trained")
    for name, value in trained.items():
        if not isinstance(value, NetworkOptimizer):
            raise UserError(
                f"{name_of}.trained_networks()['{name}'] is a {type(value).__name__}; a NetworkOptimizer is needed"
            )
        if not any(p.requires_grad for p in value.network.parameters()):
            raise UserError(f"{name_of}: no parameter of the network '{name}' needs a gradient")
    for name in averages:
        if name not in trained and not isinstance(getattr(method, name, None), nn.Module):
            raise UserError(f"{name_of}.averages has '{name}', but the method has no network of that name")


def check_log_values(name_of: str, values: Any) -> None:
    """Raises `UserError` where `iterate` does not return scalar tensors by name."""
    if not isinstance(values, Mapping):
        raise UserError(f"{name_of}.iterate returned a {type(values).__name__}; a dict of scalar tensors is needed")
    for name, value in values.items():
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"{name_of}.iterate logs '{name}' as {shape}; a scalar tensor is needed")
