"""Files of weights: reading them, loading them into a network, and their fingerprints."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, is_zipfile

import torch
from torch import nn

from ebmzoo.errors import UserError
from ebmzoo.networks.integrity import check_finite, damage
from ebmzoo.reading import check_regular

REFUSED_CLASS = re.compile(r"(?:GLOBAL|global|class) (?:`?)([\w.]+)")


def read_weights(path: str | Path) -> Any:
    """Return the contents of a file, plain values and tensors on the CPU; no code of the file is run.

    Raises:
        UserError: If the file cannot be read, is damaged or of another kind, holds an object that could run code, or
            takes more memory than its size; or if it is a pipe or a device.
    """
    check_archive(path)
    if is_zipfile(path) and (reason := damage(path)) is not None:
        raise UserError(f"{path} is damaged ({reason}): take another copy of it, or the checkpoint before it")
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


def check_archive(path: str | Path) -> None:
    """Check that a file of weights, if it is an archive, is as long unpacked as it is on the disk, as torch writes it.

    Raises:
        UserError: If it is not, or is a pipe or a device.
    """
    check_regular(path)
    try:
        with ZipFile(path) as archive:
            members = archive.infolist()
        unpacked, size = sum(member.file_size for member in members), Path(path).stat().st_size
    except (OSError, BadZipFile, ValueError, NotImplementedError):
        return  # torch states what is wrong with it
    if unpacked > size or any(member.compress_type != ZIP_STORED for member in members):
        raise UserError(
            f"{path} is refused: it unpacks from {size / 2**20:.3g} to {unpacked / 2**20:.3g} MiB, and a file of "
            "weights is not compressed"
        )


def first_difference(own: Mapping[str, Any], weights: Mapping[str, Any]) -> str | None:
    """The first tensor, by name, whose shape in a file is not that of a network's state_dict; None if all are alike.

    >>> first_difference({"weight": torch.zeros(2, 3)}, {"weight": torch.zeros(2, 4)})
    'weight is (2, 4) in the file and must be (2, 3)'

    Args:
        own: The state_dict of the network.
        weights: That of the file.
    """
    for key in sorted(own.keys() | weights.keys()):
        found = tuple(weights[key].shape) if key in weights else "missing"
        needed = tuple(own[key].shape) if key in own else "absent"
        if found != needed:
            return f"{key} is {found} in the file and must be {needed}"
    return None


def load_pretrained(network: nn.Module, path: str | Path, prefix: str, kind: str) -> None:
    """Load into `network` the weights of a checkpoint with keys that begin with `prefix`.

    Args:
        network: The network, which is changed in place, or not at all if an error is raised.
        path: A checkpoint of any method that owns such a network.
        prefix: Start of the keys in the state_dict, such as "encoder.".
        kind: Name of the network in errors; it begins with a vowel.

    Raises:
        UserError: If the file is missing or damaged, is not a checkpoint with such keys, or holds another network than
            this one or weights that are not finite.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; it must be the checkpoint of an {kind}, made by `ebmzoo fit`")
    checkpoint = read_weights(path)
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    weights = {k.removeprefix(prefix): v for k, v in (state or {}).items() if k.startswith(prefix)}
    if not weights:
        raise UserError(f"{path}: a checkpoint without an {kind}; one with '{prefix}' keys in its state_dict is needed")
    if (difference := first_difference(network.state_dict(), weights)) is not None:
        raise UserError(f"{path}: holds another {kind} than the configured one: {difference}")
    check_finite(weights, path)
    network.load_state_dict(weights)


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits; protocols show the first 12."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
