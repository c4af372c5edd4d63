"""`python -m profiling.gpu.part NAME`: one part, in a process of its own, which no failure of another can touch."""

from __future__ import annotations

import argparse
import logging
import warnings
from importlib import import_module
from pathlib import Path

from profiling.gpu.options import Options
from profiling.gpu.record import Record, failure


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m profiling.gpu.part", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rehearse", action="store_true")
    for name in ("out", "images", "encoder", "classifier"):
        parser.add_argument(f"--{name}", type=Path)
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    record = Record(args.out / f"{args.name}.json", args.seconds)
    record.put(status="cut")  # until it has ended
    options = Options(args.out, args.rehearse, args.images, args.encoder, args.classifier)
    try:
        import_module(f"profiling.gpu.{args.name}").measure(record, options)
    except Exception as error:
        record.put(status="failed", failure=failure(error))
        raise
    record.put(status="skipped" if "skipped" in record.told else "ended")


if __name__ == "__main__":
    main()
