"""A model's section of a config, made to fit the images of its data; and flags of the command line that would do so."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.plane import PlaneData
from ebmzoo.errors import UserError

SHAPE_KEYS = {"in_channels": "channels", "out_channels": "channels", "size": "size"}
"""The keys of a model's config that state the shape of images, and what they state."""
STATISTICS = ("mean", "std")
"""The keys of a model's config with one value for each channel."""


@dataclass(frozen=True)
class ImageShape:
    """The shape of the square images of a data set.

    >>> ImageShape.of("ebmzoo.data.ImageFolder", {"path": "photos", "size": 64})
    ImageShape(channels=3, size=64)
    >>> ImageShape.of("ebmzoo.data.CIFAR10", {})
    ImageShape(channels=3, size=32)

    Args:
        channels: 3 for RGB, 1 for grey.
        size: Side in pixels.
    """

    channels: int
    size: int

    @classmethod
    def of(cls, class_path: str, arguments: Mapping[str, Any]) -> ImageShape | None:
        """The shape of a data module's images by its section of a config; None where it does not say, as of points."""
        kind = _class(class_path)
        every = {**_defaults(class_path, [each.name for each in fields(cls)]), **arguments}
        found = [every.get(each.name, getattr(kind, each.name, None)) for each in fields(cls)]
        numbers = [number for number in found if isinstance(number, int)]
        return cls(*numbers) if len(numbers) == len(found) else None


def matched(section: Mapping[str, Any], of: ImageShape, to: ImageShape) -> tuple[dict[str, Any], list[str]]:
    """A model's section of a config with the shape `to` wherever it has, or defaults to, that of images `of`.

    Statistics with one value for each channel become their mean, if the channels change.

    >>> section = {"class_path": "ebmzoo.networks.SNGANEnergy", "init_args": {"in_channels": 1, "width": 8}}
    >>> matched(section, ImageShape(1, 32), ImageShape(1, 64))[0]["init_args"]
    {'in_channels': 1, 'width': 8, 'size': 64}

    Returns:
        The section, and the keys of the numbers that have changed.
    """
    changed: dict[str, int | list[float]] = {}
    for key, value in _stated(section, "model"):
        if isinstance(value, list):
            if value and of.channels != to.channels and len(value) == of.channels:
                changed[key] = [round(sum(value) / len(value), 4)] * to.channels
        elif value == (old := getattr(of, SHAPE_KEYS[key.rpartition(".")[2]])):
            new = getattr(to, SHAPE_KEYS[key.rpartition(".")[2]])
            changed |= {key: new} if new != old else {}
    return _changed(section, changed, "model"), list(changed)


def _changed(node: Mapping[str, Any], values: Mapping[str, Any], at: str) -> dict[str, Any]:
    """A copy of a config's section with other values at these keys."""
    inner = node.get("init_args", {} if "class_path" in node else node)
    new = {
        key: _changed(value, values, f"{at}.{key}") if isinstance(value, Mapping) else value
        for key, value in inner.items()
    }
    for key, value in values.items():
        above, _, name = key.rpartition(".")
        if above == at:
            new[name] = value
    return {**node, "init_args": new} if {"class_path", "init_args"} & node.keys() else new


@contextmanager
def fitted_to(data: ImageData | PlaneData, section: Mapping[str, Any] | None) -> Iterator[None]:
    """Within it, an error of a dry run of a model on one of the data's images names the flags that change either.

    Args:
        data: The data whose images the model is run on.
        section: The model's section of the config; None where there is none.

    Raises:
        UserError: The model does not take the images.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}{matching_flags(data, section)}") from error
    except RuntimeError as error:
        shape = (data.channels, data.size, data.size)
        reason = str(error).splitlines()[0][:140]
        flags = matching_flags(data, section)
        raise UserError(
            f"model does not accept data of shape {shape} (channels, height, width): {reason}{flags}"
        ) from error


def matching_flags(data: ImageData | PlaneData, section: Mapping[str, Any] | None) -> str:
    """The end of a sentence about a mismatch: the flags that give data and model the same shape; empty without any.

    >>> from ebmzoo.data import Digits, ImageFolder
    >>> matching_flags(Digits(), {"class_path": "VAE", "init_args": {"size": 32}})
    '; set --model.size 8'
    >>> matching_flags(ImageFolder("photos", size=28), {"class_path": "VAE", "init_args": {"size": 32}})
    '; set --data.size 32, or --model.size 28'
    """
    needed = {"channels": data.channels, "size": data.size}
    stated = [] if section is None else list(_stated(section, "model"))
    numbers = [(key, SHAPE_KEYS[key.rpartition(".")[2]], value) for key, value in stated if isinstance(value, int)]
    of_model = [f"--{key} {needed[kind]}" for key, kind, value in numbers if value != needed[kind]]
    for key, value in stated:
        if isinstance(value, list) and value and len(value) != data.channels:
            of_model.append(f"--{key} [{','.join([f'{sum(value) / len(value):.4g}'] * data.channels)}]")
    of_data = []
    arguments = inspect.signature(type(data).__init__).parameters
    for kind, present in needed.items():
        values = {value for _, of, value in numbers if of == kind}
        if values - {present}:
            of_data.append(f"--data.{kind} {values.pop()}" if len(values) == 1 and kind in arguments else None)
    sides = [] if None in of_data else [" ".join(flag for flag in of_data if flag is not None)]
    choices = [choice for choice in [*sides, " ".join(of_model)] if choice]
    return f"; set {', or '.join(choices)}" if choices else ""


def _stated(node: Mapping[str, Any], at: str) -> Iterator[tuple[str, int | list[Any]]]:
    """The numbers and lists of a config's section that must agree with the shape of images, with their keys.

    Defaults of classes are among them. With a `coder` the other networks take latents, so that theirs are left out.
    """
    found = node.get("init_args", {} if "class_path" in node else node)
    if not isinstance(found, Mapping):
        return
    defaults = _defaults(node.get("class_path"), [*SHAPE_KEYS, *STATISTICS])
    for key, value in {**found, **{key: value for key, value in defaults.items() if key not in found}}.items():
        if key in SHAPE_KEYS and type(value) is int:
            yield f"{at}.{key}", value
        elif key in STATISTICS and isinstance(value, list | tuple):
            yield f"{at}.{key}", list(value)
        elif isinstance(value, Mapping) and (found.get("coder") is None or key == "coder"):
            yield from _stated(value, f"{at}.{key}")


def _defaults(class_path: object, names: Sequence[str]) -> dict[str, Any]:
    """The defaults of those arguments of a class that are among `names`."""
    kind = _class(class_path)
    parameters = {} if kind is None else inspect.signature(kind.__init__).parameters
    defaults = {name: parameters[name].default for name in names if name in parameters}
    return {name: value for name, value in defaults.items() if value is not inspect.Parameter.empty}


def _class(class_path: object) -> Any:
    """What a class path names; None where it names nothing that can be imported."""
    try:
        return pkgutil.resolve_name(class_path) if isinstance(class_path, str) and "." in class_path else None
    except (ImportError, AttributeError, ValueError):
        return None
