"""The curves of a run as a CSV file whose rows are whole, whatever interrupts their writing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from ebmzoo.report.own_files import read_rows
from ebmzoo.writing import append_rows, write_whole


class WholeRows(ExperimentWriter):
    """Lightning's writer of a CSV file, which neither ends in half a row nor loses rows when a column is added.

    Rows that cannot be written, for example because the disk is full, are kept for the next time.
    """

    def save(self) -> None:
        """Save the recorded metrics."""
        if not self.metrics:
            return
        path = Path(self.metrics_file_path)
        keys = sorted({*self.metrics_keys, *(key for row in self.metrics for key in row)})
        there = path.is_file()
        if there and keys == self.metrics_keys:
            append_rows(path, _rows(self.metrics, keys))
        else:
            before = read_rows(path) if there else []
            write_whole(path, _rows([*before, *self.metrics], keys, heading=True), flush=False)
        self.metrics, self.metrics_keys = [], keys


def _rows(rows: Iterable[Mapping[str, Any]], keys: Sequence[str], heading: bool = False) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, fieldnames=keys)
    if heading:
        writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
