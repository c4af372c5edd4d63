"""What the numbers of a run may be, where neither a class of ebmzoo nor Lightning's trainer checks them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ebmzoo.errors import UserError
from ebmzoo.training.schema import is_number, value_at

LEAST: Mapping[str, int] = {
    "grid_every": 0,
    "trainer.accumulate_grad_batches": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.gradient_clip_val": 0,
    "trainer.log_every_n_steps": 0,
    "trainer.min_epochs": 0,
    "trainer.min_steps": 0,
    "trainer.num_sanity_val_steps": -1,
}
"""The least value of a key; null is allowed for all of them."""

LENGTHS = ("trainer.max_steps", "trainer.max_epochs")
"""Keys that are -1 where there is no such limit."""

ABOVE_0 = ("trainer.limit_train_batches", "trainer.val_check_interval")


def check_fit(config: Mapping[str, Any]) -> None:
    """Check the numbers of a config that `fit` is to train with.

    Raises:
        UserError: One is out of range, or contradicts another.
    """
    for key, least in LEAST.items():
        value = value_at(config, key)
        if is_number(value) and value < least:
            raise UserError(f"{key} is {value}; it must be {least} or more")
    for key in LENGTHS:
        value = value_at(config, key)
        if is_number(value) and value < 1 and value != -1:
            raise UserError(f"{key} is {value}; it must be 1 or more, or -1 for no limit")
    for key in ABOVE_0:
        value = value_at(config, key)
        if is_number(value) and not value > 0:
            raise UserError(f"{key} is {value}; it must be above 0")
    for unit in ("steps", "epochs"):
        least, most = (value_at(config, f"trainer.{bound}_{unit}") for bound in ("min", "max"))
        if is_number(least) and is_number(most) and -1 != most < least:
            raise UserError(f"trainer.min_{unit} is {least}; it must be at most trainer.max_{unit}, which is {most}")
