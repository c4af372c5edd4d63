"""Weights in files: the one place where they are read, filled into a network, and fingerprinted."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ebmzoo.errors import UserError

NAMED = re.compile(r"(?:GLOBAL|global|class) (?:`?)([\w.]+)")


def read_weights(path: str | Path) -> Any:
    """What is in the file, tensors on the CPU: plain values and tensors only, so no code of the file is run.

    Raises:
        UserError: the file cannot be read, is no such file or a damaged one, or holds something that would run code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # zip, pickle and torch each raise their own
        named = NAMED.search(str(error)) if "Weights only load failed" in str(error) else None
        if named is not None:
            raise UserError(
                f"{path} is refused: it holds a {named[1]} and not only tensors and numbers, and reading that could "
                "run code of whoever wrote the file"
            ) from error
        if isinstance(error, OSError) and error.strerror and not Path(path).is_file():
            raise UserError(f"{path}: {error.strerror}") from error
        raise UserError(f"{path} is not a readable checkpoint ({type(error).__name__})") from error


def load_pretrained(network: nn.Module, path: str | Path, prefix: str, kind: str) -> None:
    """Fill `network` in place with the weights whose keys in a checkpoint's state_dict begin with `prefix`.

    Args:
        network: left as it is where an error is raised.
        path: a checkpoint of any method that owns such a network.
        prefix: as "encoder.".
        kind: what errors call the network; it begins with a vowel.

    Raises:
        UserError: If the file is missing, is no checkpoint with such keys, or holds another network than this one.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; it must be the checkpoint of an {kind}, made by `ebmzoo fit`")
    checkpoint = read_weights(path)
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    weights = {k.removeprefix(prefix): v for k, v in (state or {}).items() if k.startswith(prefix)}
    if not weights:
        raise UserError(f"{path}: a checkpoint without an {kind}; one whose state_dict has '{prefix}' keys is needed")
    own = network.state_dict()
    for key in sorted(own.keys() | weights.keys()):
        found = tuple(weights[key].shape) if key in weights else "missing"
        needed = tuple(own[key].shape) if key in own else "absent"
        if found != needed:
            raise UserError(
                f"{path}: holds another {kind} than the configured one: "
                f"{key} is {found} in the file and must be {needed}"
            )
    network.load_state_dict(weights)


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits; protocols show the first 12."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
