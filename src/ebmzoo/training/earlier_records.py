"""Setting aside what an earlier run has left in the folder of a new one, so that it is not taken for the new one's."""

from __future__ import annotations

from itertools import count
from pathlib import Path

RECORDS = (
    *("config.yaml", "training.json", "failed.json", "wandb.json", "events.jsonl", "csv"),
    *("samples", "samples_no_mcmc", "test", "predictions.npz", "last.ckpt", "previous.ckpt"),
)
"""What a run writes into its folder, besides `BEST_FILES`."""

BEST_FILES = "best*.ckpt"
"""The best checkpoints of a run."""

_SHOWN = ("events.jsonl", "samples/*", "samples_no_mcmc/*", "test/*", "csv/*/metrics.csv", "*.ckpt")


def set_aside(run_dir: Path) -> Path | None:
    """Move the records of an earlier run into `earlier-1`, `earlier-2`, … of its folder; returns where they are.

    None where there are none: a run that has failed before its first iteration leaves nothing that anyone would show.
    """
    if not any(path.exists() for pattern in _SHOWN for path in run_dir.glob(pattern)):
        return None
    folder = next(path for number in count(1) if not (path := run_dir / f"earlier-{number}").exists())
    folder.mkdir()
    for path in [*(run_dir / name for name in RECORDS), *run_dir.glob(BEST_FILES)]:
        if path.exists() or path.is_symlink():
            path.rename(folder / path.name)
    return folder
