"""Reads the files of W&B's offline runs: LevelDB's log format after W&B's header of seven bytes.

The reader of wandb's Python part went away; this one is after the format's description,
https://github.com/google/leveldb/blob/main/doc/log_format.md, with W&B's plain CRC-32.
"""

import json
import struct
from zlib import crc32

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, FULL, FIRST, MIDDLE, LAST = 32768, 1, 2, 3, 4


def records(path):
    """Every record of a `.wandb` file, in order; a wrong checksum is an error."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, held = 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # the rest of the block is too short for a header
            at += BLOCK - at % BLOCK
            continue
        checksum, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part = data[at + 7 : at + 7 + length]
        assert crc32(bytes([kind]) + part) == checksum, at
        at += 7 + length
        held = part if kind in (FULL, FIRST) else held + part
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(held)
            yield record


def logged(folders):
    """The contents of run folders together: `run` of the first, `config`, `history` (one dict per row) and `files`."""
    found = {"run": None, "config": {}, "history": [], "files": set(), "metrics": []}
    for folder in folders:
        (path,) = folder.glob("*.wandb")
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                found["run"] = found["run"] or record.run
                found["config"] |= _items(record.run.config.update)
            elif kind == "config":
                found["config"] |= _items(record.config.update)
            elif kind == "history":
                found["history"].append(_items(record.history.item))
            elif kind == "files":
                found["files"] |= {file.path for file in record.files.files}
            elif kind == "metric":
                found["metrics"].append(record.metric)
    return found


def _items(items):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
