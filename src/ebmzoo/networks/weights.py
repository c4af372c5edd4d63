"""Files of weights: reading them, loading them into a network, and their fingerprints."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ebmzoo.errors import UserError

REFUSED_CLASS = re.compile(r"(?:GLOBAL|global|class) (?:`?)([\w.]+)")


def read_weights(path: str | Path) -> Any:
    """Return the contents of a file, plain values and tensors on the CPU; no code of the file is run.

    Raises:
        UserError: If the file cannot be read, is damaged or of another kind, or holds an object that could run code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # zip, pickle and torch each raise their own
        refused = REFUSED_CLASS.search(str(error)) if "Weights only load failed" in str(error) else None
        if refused is not None:
            raise UserError(
                f"{path} is refused: it holds a {refused[1]} and not only tensors and numbers, so that loading it "
                "could run code of the file's author"
            ) from error
        if isinstance(error, OSError) and error.strerror and not Path(path).is_file():
            raise UserError(f"{path}: {error.strerror}") from error
        raise UserError(f"{path} is not a readable checkpoint ({type(error).__name__})") from error


def load_pretrained(network: nn.Module, path: str | Path, prefix: str, kind: str) -> None:
    """Load into `network` the weights of a checkpoint with keys that begin with `prefix`.

    Args:
        network: The network, which is changed in place, or not at all if an error is raised.
        path: A checkpoint of any method that owns such a network.
        prefix: Start of the keys in the state_dict, such as "encoder.".
        kind: Name of the network in errors; it begins with a vowel.

    Raises:
        UserError: If the file is missing, is not a checkpoint with such keys, or holds another network than this one.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; it must be the checkpoint of an {kind}, made by `ebmzoo fit`")
    checkpoint = read_weights(path)
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    weights = {k.removeprefix(prefix): v for k, v in (state or {}).items() if k.startswith(prefix)}
    if not weights:
        raise UserError(f"{path}: a checkpoint without an {kind}; one with '{prefix}' keys in its state_dict is needed")
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
    """Return the SHA-256 of a file, as 64 hexadecimal digits; protocols show the first 12."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
