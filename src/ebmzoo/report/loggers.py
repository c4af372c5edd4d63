"""Where a run's curves go: CSV always; W&B online with a key, offline without one, nowhere when it is not installed."""

from __future__ import annotations

import netrc
import os
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

from lightning.pytorch.loggers import CSVLogger, Logger


def loggers(run_dir: Path, group: str, tags: list[str]) -> list[Logger]:
    """The loggers of one command in a run; `fit` and `test` of one run share one W&B run."""
    chosen: list[Logger] = [CSVLogger(run_dir, name="csv")]
    if find_spec("wandb") is not None and os.environ.get("WANDB_MODE") != "disabled":
        chosen.append(_wandb(run_dir, group, tags))
    return chosen


def has_key() -> bool:
    """Whether a W&B key is configured, in the environment or in ~/.netrc; nothing is asked and nothing is sent."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _wandb(run_dir: Path, group: str, tags: list[str]) -> Logger:
    from lightning.pytorch.loggers import WandbLogger
    from wandb import Settings

    offline = os.environ.get("WANDB_MODE") == "offline" or not has_key()
    logger = WandbLogger(
        name=run_dir.name,
        save_dir=str(run_dir),
        project=os.environ.get("WANDB_PROJECT", "ebmzoo"),
        id=_run_id(run_dir),
        resume=None if offline else "allow",
        offline=offline,
        group=group,
        tags=tags,
        settings=Settings(silent=True, console="off"),
    )
    logger._wandb_init.pop("anonymous", None)  # lightning 2.6 always passes it, and wandb warns of it in every run
    return logger


def _run_id(run_dir: Path) -> str:
    kept = run_dir / "wandb-id.txt"
    if not kept.exists():
        run_dir.mkdir(parents=True, exist_ok=True)
        kept.write_text(uuid4().hex[:12])
    return kept.read_text().strip()
