"""What commands that use Lightning have in common: no advertisements, and errors that fit in a sentence."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.exceptions import MisconfigurationException

from ebmzoo.errors import UserError
from ebmzoo.langevin import ChainDivergedError


@contextmanager
def quietly() -> Iterator[None]:
    """Within it Lightning's advertisements and its advice that does not fit in-memory data are kept off the screen.

    What it and a chain say of mistakes becomes a `UserError`.
    """
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )
    for text in (".*does not have many workers.*", ".*exists and is not empty.*", ".*isinstance.*LeafSpec.*"):
        warnings.filterwarnings("ignore", text)
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(" ".join(str(error).split())) from error
    except ChainDivergedError as error:
        raise UserError(str(error)) from error
