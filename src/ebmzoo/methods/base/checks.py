"""Checks of a method: of its class, of a constructed object, at the start of a fit, and in the first iteration."""

from __future__ import annotations

import inspect
from abc import ABCMeta
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ebmzoo.errors import UserError
from ebmzoo.methods.base.averaging import Average, check_name
from ebmzoo.methods.base.optimization import NetworkOptimizer

_CALLED_BY_NAME = ("ood_score", "chain_info")
"""Members that are not abstract, and whose arguments are checked as those of abstract members are."""


class CheckedMeta(ABCMeta):
    """The metaclass of methods, which checks an object after its whole `__init__`, whatever class it is of.

    A check in an `__init__` of a base class would come too early, before a subclass has set its networks.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        check_complete(cls)
        method = super().__call__(*args, **kwargs)
        check_construction(method)
        return method

    @property
    def __signature__(cls) -> inspect.Signature:
        """The signature of `__init__`, instead of that of `__call__` above, for `help` and editors."""
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]  # of the class, not of an object
        return signature.replace(parameters=list(signature.parameters.values())[1:])


def check_class(cls: type) -> None:
    """Check the members that a class defines against those of its base classes, where the class is written.

    Raises:
        TypeError: If a member is final in a base class, lacks an argument, or is a method instead of a property.
    """
    for name, member in vars(cls).items():
        for base in cls.__mro__[1:]:
            if not isinstance(base, ABCMeta) or name not in vars(base):
                continue
            declared = vars(base)[name]
            if _is_final(declared):
                raise TypeError(f"{cls.__name__}.{name} may not be defined: it is final in {base.__name__}")
            if isinstance(declared, property) and inspect.isfunction(member):
                raise TypeError(f"{cls.__name__}.{name} must be a property, as {base.__name__} declares it")
            if inspect.isfunction(declared) and isinstance(member, property):
                raise TypeError(
                    f"{cls.__name__}.{name} must be a method, not a property, as {base.__name__} declares it"
                )
            if inspect.isfunction(declared) and inspect.isfunction(member) and _is_called_by_name(name, declared):
                _check_arguments(cls, name, declared, member)


def _is_final(member: Any) -> bool:
    return bool(getattr(member, "__final__", False) or getattr(getattr(member, "fget", None), "__final__", False))


def _is_called_by_name(name: str, declared: Any) -> bool:
    return getattr(declared, "__isabstractmethod__", False) or name in _CALLED_BY_NAME


def _check_arguments(cls: type, name: str, declared: Any, member: Any) -> None:
    found = inspect.signature(member).parameters
    if any(p.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL) for p in found.values()):
        return
    needed = [argument for argument in inspect.signature(declared).parameters if argument != "self"]
    if missing := [argument for argument in needed if argument not in found]:
        raise TypeError(f"{cls.__name__}.{name} must take {', '.join(needed)}; it lacks {', '.join(missing)}")


def missing_members(cls: type) -> list[str]:
    """Return the abstract members that a class does not define, each with the class that declares it."""
    found = []
    for name in sorted(getattr(cls, "__abstractmethods__", ())):
        base = next(base for base in cls.__mro__ if name in vars(base))
        kind = "the property " if isinstance(vars(base)[name], property) else ""
        found.append(f"{kind}{name} (of {base.__name__})")
    return found


def check_complete(cls: type) -> None:
    """Check that a class defines all abstract members of its base classes.

    Raises:
        TypeError: If it does not; the message names them all.
    """
    if missing := missing_members(cls):
        raise TypeError(f"{cls.__name__} must define {', '.join(missing)}")


def check_construction(method: nn.Module) -> None:
    """Check that an object has what its base classes and capabilities need, and that each average is of a network.

    Raises:
        UserError: If `super().__init__()` was not called, an attribute that a base class annotates was not set, or
            `averages` is not what `averaged` returns, or has a name that is not that of a network.
    """
    cls = type(method)
    if "optimization" not in vars(method):
        raise UserError(f"{cls.__name__}.__init__ must call super().__init__() before it sets its networks")
    for name, base in _needed_attributes(cls):
        if not hasattr(method, name):
            raise UserError(
                f"{cls.__name__} has no attribute '{name}', which {base.__name__} needs: set it in __init__"
            )
    averages = getattr(method, "averages", None)
    if averages is None:
        return
    if not isinstance(averages, nn.ModuleDict) or not all(isinstance(a, Average) for a in averages.values()):
        raise UserError(f"{cls.__name__}.averages must be what `averaged(decay, name=network)` returns")
    for name in averages:
        if not isinstance(getattr(method, name, None), nn.Module):
            raise UserError(f"{cls.__name__}.averages has '{name}', but the method has no network of that name")


def _needed_attributes(cls: type) -> Iterable[tuple[str, type]]:
    """The attributes that the base classes of a method annotate; `averages` are optional."""
    for base in cls.__mro__[1:]:
        if isinstance(base, ABCMeta):
            for name, kind in inspect.get_annotations(base).items():
                if name != "averages" and "ClassVar" not in str(kind):
                    yield name, base


def check_networks(method: nn.Module, trained: Mapping[str, Any]) -> None:
    """Check what `trained_networks` returns, when a fit is set up.

    Raises:
        UserError: If it is empty, or a name is not an identifier, a value not a `NetworkOptimizer`, or a network not
            part of the method or without a parameter that needs a gradient.
    """
    name_of = type(method).__name__
    if not trained:
        raise UserError(f"{name_of}.trained_networks() is empty; it must name the networks that are trained")
    registered = {id(p) for p in method.parameters()}
    for name, value in trained.items():
        check_name(name, f"{name_of}.trained_networks()")
        if not isinstance(value, NetworkOptimizer):
            raise UserError(
                f"{name_of}.trained_networks()['{name}'] is a {type(value).__name__}; a NetworkOptimizer is needed"
            )
        if not any(p.requires_grad for p in value.network.parameters()):
            raise UserError(f"{name_of}: no parameter of the network '{name}' needs a gradient")
        if not all(id(p) in registered for p in value.network.parameters()):
            raise UserError(
                f"{name_of}.trained_networks() has '{name}', but the method has no such network, and no checkpoint "
                "would contain it: assign it to an attribute in __init__"
            )


def check_log_values(name_of: str, values: Any) -> None:
    """Check what `iterate` returns.

    Raises:
        UserError: If it is not scalar tensors by name.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{name_of}.iterate returned a {type(values).__name__}; a dict of scalar tensors is needed")
    for name, value in values.items():
        if not isinstance(name, str):
            raise UserError(f"{name_of}.iterate logs a value under {name!r}; a string is needed")
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"{name_of}.iterate logs '{name}' as {shape}; a scalar tensor is needed")
