"""A shared model: a folder with averaged weights, a config and a model card, read as if it were a checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from torch import Tensor

from ebmzoo.errors import UserError
from ebmzoo.methods.base.method import Method
from ebmzoo.reading import CONFIG_BYTES, TooLargeError, check_size, read_text
from ebmzoo.training.config import sections
from ebmzoo.training.migration import FORMAT, KEY, migrated
from ebmzoo.training.sharing.hub import Address, download, is_on_hub
from ebmzoo.training.sharing.safetensors import read_safetensors, write_safetensors
from ebmzoo.training.trust import check_named_classes, check_trainer
from ebmzoo.version import __version__
from ebmzoo.writing import write_whole

WEIGHTS, CONFIG, CARD, PICTURE = "model.safetensors", "config.yaml", "README.md", "samples.png"
FILES = (WEIGHTS, CONFIG, CARD, PICTURE)
"""The files of a shared model."""

_COUNT = "n_averaged"
_TYPES: Mapping[str, type[Any]] = {
    "format": int,
    "version": str,
    "epoch": int,
    "global_step": int,
    "data": dict,
    "left_out": dict,
}


def located(given: str | Path) -> Path:
    """The file of weights that a path or an address names: a checkpoint's, or that of a shared model.

    A folder is that of a shared model; an address such as `hf:user/name` is downloaded.

    Raises:
        UserError: The folder holds no shared model, or as of `hub.download`.
    """
    if is_on_hub(given):
        return download(Address.of(str(given)), (CONFIG, WEIGHTS)) / WEIGHTS
    path = Path(given)
    if not path.is_dir():
        return path
    if not (path / WEIGHTS).exists():
        hint = f"; did you mean {path / 'last.ckpt'}?" if (path / "last.ckpt").exists() else ""
        raise UserError(f"the folder {path} holds no {WEIGHTS}, so it is no shared model{hint}")
    return path / WEIGHTS


def is_shared(path: str | Path) -> bool:
    """Whether a file of weights is that of a shared model."""
    return Path(path).name == WEIGHTS


def read_shared(path: str | Path) -> dict[str, Any]:
    """The contents of a shared model as those of a checkpoint in the newest format, without a state of training.

    Each averaged network is there twice, as in a checkpoint; the tensors that only training needs are zeros, and what
    is stored in float16 is made float32.

    Args:
        path: Its file of weights, beside which its config is.

    Raises:
        UserError: A file is missing, damaged, a link out of the folder, or not of ebmzoo; or as of `schema.check`.
    """
    path = Path(path)
    for name in (WEIGHTS, CONFIG):
        _check_own(path.with_name(name))
    try:
        config = read_text(path.with_name(CONFIG), CONFIG_BYTES)
    except UnicodeDecodeError as error:
        raise UserError(f"{path.with_name(CONFIG)} is not a text in UTF-8") from error
    tensors, metadata = read_safetensors(path)
    own = _stated(path, metadata)
    checkpoint = migrated(
        {
            "epoch": own["epoch"],
            "global_step": own["global_step"],
            "pytorch-lightning_version": lightning.__version__,
            "state_dict": _state_of_checkpoint({name: _single(value) for name, value in tensors.items()}),
            KEY: {
                **{key: own[key] for key in ("format", "version", "data")},
                "config": config,
                "random": [],
                "buffers": [],
                "rollbacks": {},
            },
        },
        path,
    )
    checkpoint["state_dict"] |= {name: _zeros(path, name, shape) for name, shape in own["left_out"].items()}
    return checkpoint


def write_shared(folder: Path, checkpoint: Mapping[str, Any], method: Method, half: bool = False) -> None:
    """Write the weights and the config of a shared model.

    Args:
        folder: The folder, which is made if it does not exist.
        checkpoint: The contents of the checkpoint, in the newest format.
        method: The method that was loaded from it.
        half: Store the weights in float16: half the size, each rounded to 11 bits. Buffers are kept as they are.

    Raises:
        UserError: Its config names a class or a place that one of a stranger may not, or with `half` a weight is beyond
            float16's 65,504.
    """
    config = sections(checkpoint[KEY]["config"]) | {"weights": "ema"}
    check_trainer(config)
    check_named_classes(config)
    weights = {name for name, value in method.named_parameters() if value.dtype == torch.float32}
    tensors, left_out = {}, {}
    for name, value in _averaged(checkpoint["state_dict"]):
        if name.startswith(method.training_state):
            left_out[name] = list(value.shape)
        else:
            tensors[name] = _rounded(name, value) if half and name in weights else value
    data = {key: checkpoint[KEY].get("data", {}).get(key) for key in ("record", "classes")}
    own = {
        "format": FORMAT,
        "version": __version__,
        "epoch": checkpoint.get("epoch", 0),
        "global_step": checkpoint.get("global_step", 0),
        "data": {key: value for key, value in data.items() if value is not None},
        "left_out": left_out,
    }
    write_safetensors(folder / WEIGHTS, tensors, {"format": "pt", KEY: json.dumps(own)})
    write_whole(folder / CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def _rounded(name: str, weights: Tensor) -> Tensor:
    """Weights in float16."""
    rounded = weights.half()
    if not rounded.isfinite().all():
        raise UserError(f"{name} has weights beyond 65,504, the largest of float16; share them without --half")
    return rounded


def _single(value: Tensor) -> Tensor:
    """A tensor of float16 in float32, in which all is computed."""
    return value.float() if value.dtype == torch.float16 else value


def _check_own(path: Path) -> None:
    """Check that a file lies in its folder: a link may lead to the blobs of the hub's cache beside it only."""
    folder = path.parent.resolve()
    blobs = folder.parents[1] / "blobs" if folder.parent.name == "snapshots" else folder
    found = path.resolve()
    if not found.is_relative_to(folder) and not found.is_relative_to(blobs):
        raise UserError(f"{path} is a link to {found}, outside the folder of the shared model")
    if not found.is_file():
        raise UserError(f"there is no file {path}, which a shared model has")


def _stated(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What `write_shared` states beside the tensors."""
    if KEY not in metadata:
        raise UserError(f"{path} was not written by `ebmzoo push`, so it is no shared model")
    try:
        own = json.loads(metadata[KEY])
        check_size(own, lambda value: list(value.values()) if isinstance(value, dict) else _items(value))
    except (ValueError, RecursionError, TooLargeError) as error:
        raise UserError(f"{path} has metadata that cannot be read ({error!s:.100})") from error
    for key, kind in _TYPES.items():
        if not isinstance(own, dict) or not isinstance(own.get(key), kind):
            raise UserError(f"{path} has metadata without a {key} of type {kind.__name__}")
    return dict(own)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _zeros(path: Path, name: str, shape: Any) -> Tensor:
    """Zeros that take no memory, however many a file says there are."""
    sizes = shape if isinstance(shape, list) and len(shape) <= 8 else [-1]
    whole = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**31 for n in sizes)
    if not whole or math.prod(sizes) >= 2**48:
        raise UserError(f"{path} leaves out {name:.60} of shape {shape!s:.60}, which is no shape")
    return torch.zeros((), dtype=torch.uint8).expand(sizes)


def _averaged(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The state of a checkpoint with the averages in the place of the networks, and how often each was averaged."""
    for name, value in state.items():
        network, _, rest = name.partition(".")
        if network != "averages":
            yield name, state.get(f"averages.{network}.module.{rest}", value)
        elif name.endswith(f".{_COUNT}"):
            yield name, value


def _state_of_checkpoint(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `_averaged`."""
    state = dict(tensors)
    for network in (name.split(".")[1] for name in tensors if name.startswith("averages.") and name.count(".") == 2):
        own = {name: value for name, value in tensors.items() if name.startswith(f"{network}.")}
        state |= {f"averages.{network}.module.{name.removeprefix(f'{network}.')}": value for name, value in own.items()}
    return state
