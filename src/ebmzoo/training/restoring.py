"""Taking up a checkpoint, with errors that say what of it does not fit the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from torch import Tensor

from ebmzoo.errors import UserError
from ebmzoo.networks.weights import first_difference
from ebmzoo.training.config import sections
from ebmzoo.training.differences import changed_keys
from ebmzoo.training.migration import KEY

FOREIGN = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What Lightning and torch raise over a state that they do not expect."""

SHOWN = 3
"""The most changed keys that an error lists."""


class Restorer(_CheckpointConnector):
    """Lightning's restorer of checkpoints, which says in a sentence what of one the run cannot take up."""

    def resume_start(self, checkpoint_path: Any = None, weights_only: bool | None = None) -> None:
        """Read the file."""
        with self._errors():
            super().resume_start(checkpoint_path, weights_only)

    def restore_model(self) -> None:
        """Load the weights; raises `UserError` where they are those of another model."""
        with self._errors():
            super().restore_model()

    def restore_datamodule(self) -> None:
        """Restore the data module's own state."""
        with self._errors():
            super().restore_datamodule()

    def restore_callbacks(self) -> None:
        """Restore the callbacks; raises `UserError` where a state has values of other kinds than the callback's own."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            saved = self._loaded_checkpoint.get("callbacks", {}).get(callback.state_key, {})
            for key, own in callback.state_dict().items():
                if key in saved and own is not None and saved[key] is not None and _kind(own) != _kind(saved[key]):
                    raise UserError(
                        f"ckpt_path: {self.trainer.ckpt_path}: its state of the callback {type(callback).__name__} has "
                        f"{saved[key]!r:.60} at {key}, and must have a {_kind(own)}"
                    )
        with self._errors():
            super().restore_callbacks()

    def restore_training_state(self) -> None:
        """Restore loops, optimizers and schedules; raises `UserError` where the file has no such states."""
        with self._errors():
            super().restore_training_state()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except FOREIGN as error:
            path = self.trainer.ckpt_path
            reason = unfit(self.trainer, self._loaded_checkpoint)
            if reason is None:
                message = (" ".join(str(error).split()) or "no reason given")[:160]
                reason = f"holds a state that this run cannot take up ({type(error).__name__}: {message})"
            raise UserError(f"ckpt_path: {path} {reason}") from error


def _kind(value: Any) -> str:
    """The kind of a value in a checkpoint."""
    kinds = {"number": int | float, "text": str, "mapping": Mapping, "list": list | tuple, "tensor": Tensor}
    return next((name for name, types in kinds.items() if isinstance(value, types)), type(value).__name__)


def unfit(trainer: Trainer, checkpoint: Mapping[str, Any]) -> str | None:
    """What the weights of a checkpoint have that the model of the run has not; None if they fit.

    Args:
        trainer: The trainer with the model.
        checkpoint: The contents of the file.
    """
    own, saved = trainer.lightning_module.state_dict(), checkpoint.get("state_dict", {})
    trained = [{name: x for name, x in state.items() if not name.startswith("averages.")} for state in (own, saved)]
    difference = first_difference(*trained) or first_difference(own, saved) if checkpoint else None
    if difference is None:
        return None
    before = sections(checkpoint.get(KEY, {}).get("config", "")).get("model")
    now = getattr(trainer, "model_config", None)
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return f"does not hold the weights of this model: {difference}"
    if before.get("class_path") != now.get("class_path"):
        kinds = [str(section.get("class_path")).rpartition(".")[2] for section in (before, now)]
        return f"holds a {kinds[0]}, and the model of the config is a {kinds[1]}; give the config of its run"
    changed = list(changed_keys({"model": before}, {"model": now}))
    words = [f"{key} from {was} to {value}" for key, was, value in changed[:SHOWN]]
    words += [f"{len(changed) - SHOWN} more"] if len(changed) > SHOWN else []
    since = f"; the config has changed {', '.join(words)} since" if words else ""
    return f"holds other networks than those of the config: {difference}{since}"
