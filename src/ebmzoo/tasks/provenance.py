"""What a figure rests on besides the task and the data: the checkpoint, the model's settings, the code, the machine."""

from __future__ import annotations

import json
import platform
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

import ebmzoo
from ebmzoo.networks.weights import sha256 as sha256_of_file


def provenance(trainer: Trainer) -> dict[str, Any]:
    """Return the checkpoint, the model's settings, the versions and the machine of an evaluation."""
    path = trainer.ckpt_path
    device = trainer.lightning_module.device
    cuda = device.type == "cuda"
    return {
        "checkpoint": str(path) if path else None,
        "checkpoint_sha256": sha256_of_file(path)[:12] if path else None,
        "model": model_digest(getattr(trainer, "model_config", None)),
        "precision": str(trainer.precision),
        "device": torch.cuda.get_device_name(device) if cuda else f"{platform.machine()} {device.type}",
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("ebmzoo", "torch", "torchvision", "lightning", "torchmetrics")}
        | {"source": source_digest()},
    }


def model_digest(config: Any) -> str | None:
    """Return 12 hexadecimal digits of the SHA-256 of a model's resolved config; None where there is no config."""
    return None if config is None else sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


@cache
def source_digest() -> str:
    """Return 12 hexadecimal digits of the SHA-256 of ebmzoo's own source files."""
    root = Path(ebmzoo.__file__).parent
    found = sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:12]
