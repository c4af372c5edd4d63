"""The safetensors format: tensors by name behind a JSON header, so that no code can be in the file.

Eight bytes of the header's length (little-endian), the header, and the tensors without gaps in between. Source: the
specification of the library `safetensors`, version 0.8, whose files this module reads, and which reads its.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebmzoo.errors import UserError
from ebmzoo.networks.integrity import check_finite
from ebmzoo.reading import TooLargeError, check_size, read_bytes
from ebmzoo.writing import write_whole

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
HEADER_BYTES = 2**23
"""The largest number of bytes of a header: 8 MiB."""
VALUES = 1_000_000
"""The largest number of values of a header."""
FILE_BYTES = 2**34
"""The largest number of bytes of a file: 16 GiB."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_METADATA = "__metadata__"


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file by name, on the CPU, and its metadata.

    Raises:
        UserError: The file is no regular file or of another format, its header is larger than `HEADER_BYTES` or does
            not describe exactly the bytes that follow it, or a tensor has a type that is not in `DTYPES`, or NaN or
            infinity in it.
        OSError: There is no such file, or it cannot be read.
    """
    content = memoryview(read_bytes(path, FILE_BYTES))
    try:
        header, data = _parts(content)
        metadata = _metadata(header.pop(_METADATA, {}))
        places = {name: _place(name, entry) for name, entry in header.items()}
        _check_places(places, len(data))
        tensors = {name: _tensor(data[begin:end], kind, shape) for name, (kind, shape, begin, end) in places.items()}
    except (ValueError, RuntimeError, RecursionError, TooLargeError) as error:
        raise UserError(f"{path} is not a safetensors file: {error!s:.200}") from error
    check_finite(tensors, path)
    return tensors, metadata


def write_safetensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file of tensors; equal ones give equal bytes.

    Raises:
        UserError: A tensor has a type that is not in `DTYPES`.
        UnwritableError: As of `write_whole`.
    """
    if odd := [name for name, tensor in tensors.items() if tensor.dtype not in _NAMES]:
        raise UserError(f"{path}: {odd[0]} is of type {tensors[odd[0]].dtype}, which a safetensors file does not hold")
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))}
    blobs, end = [], 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):  # so that all are aligned
        flat = tensors[name].detach().cpu().contiguous().flatten()
        blobs.append(flat.view(torch.uint8).numpy().tobytes())
        begin, end = end, end + len(blobs[-1])
        kind, shape = _NAMES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write_whole(path, b"".join([len(text).to_bytes(8, "little"), text, *blobs]))


def _parts(content: memoryview) -> tuple[dict[str, Any], memoryview]:
    """The header, and the bytes of the tensors."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise ValueError("it ends before its header does")
    if length > HEADER_BYTES:
        raise ValueError(f"its header has {length:,} bytes, and may have {HEADER_BYTES:,}")
    header = json.loads(bytes(content[8 : 8 + length]), object_pairs_hook=_without_repetition)
    if not isinstance(header, dict):
        raise ValueError(f"its header is a {type(header).__name__}")
    check_size(header, _children, VALUES, deepest=5)
    return header, content[8 + length :]


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice in its header")
    return found


def _metadata(found: Any) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("its metadata are not texts")
    return found


def _place(name: str, entry: Any) -> tuple[str, list[int], int, int]:
    """The type, the shape, and the first and last byte of a tensor."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name:.60} has not exactly dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise ValueError(f"{name:.60} is of type {kind!s:.20}, not of one of {', '.join(DTYPES)}")
    if not all(isinstance(numbers, list) and all(map(_is_count, numbers)) for numbers in (shape, offsets)):
        raise ValueError(f"{name:.60} has a shape or offsets that are not whole numbers of 0 or more")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * DTYPES[kind].itemsize:
        raise ValueError(f"{name:.60} has other offsets than its shape and type need")
    return kind, shape, offsets[0], offsets[1]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def _check_places(places: Mapping[str, tuple[str, list[int], int, int]], size: int) -> None:
    """Check that the tensors fill the bytes after the header, without gaps or overlaps."""
    ends = sorted((begin, end) for _, _, begin, end in places.values())
    if any(end != begin for (_, end), (begin, _) in pairwise(ends)) or (ends and ends[0][0] != 0):
        raise ValueError("its tensors overlap, or leave gaps")
    if (ends[-1][1] if ends else 0) != size:
        raise ValueError(f"its tensors end at byte {ends[-1][1] if ends else 0:,}, and the file at {size:,}")


def _tensor(data: memoryview, kind: str, shape: list[int]) -> Tensor:
    if not data:
        return torch.empty(shape, dtype=DTYPES[kind])
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if kind == "BOOL" and bool((raw > 1).any()):
        raise ValueError("a boolean in it is neither 0 nor 1")
    return raw.view(DTYPES[kind]).reshape(shape)
