"""Reading a network that an earlier run trained out of that run's checkpoint."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ebmzoo.errors import UserError
from ebmzoo.weights import read_weights


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
