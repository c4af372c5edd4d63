"""What to set where the images of the data are not those that a model takes: flags of the command line."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.plane import PlaneData
from ebmzoo.errors import UserError

SHAPE_KEYS = {"in_channels": "channels", "out_channels": "channels", "size": "size"}
"""The keys of a model's config that state the shape of images, and what they state."""
STATISTICS = ("mean", "std")
"""The keys of a model's config with one value for each channel."""


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

    With a `coder` the other networks take latents, so that theirs are left out.
    """
    found = node.get("init_args", node)
    if not isinstance(found, Mapping):
        return
    for key, value in found.items():
        if (key in SHAPE_KEYS and type(value) is int) or (key in STATISTICS and isinstance(value, list)):
            yield f"{at}.{key}", value
        elif isinstance(value, Mapping) and (found.get("coder") is None or key == "coder"):
            yield from _stated(value, f"{at}.{key}")
