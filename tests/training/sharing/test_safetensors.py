"""The safetensors format, held against the library; and files that are not of it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from safetensors.torch import safe_open as open_file

from ebmzoo import UserError
from ebmzoo.training.sharing.safetensors import DTYPES, HEADER_BYTES, read_safetensors, write_safetensors

METADATA = {"format": "pt", "é": '{"a": 1}'}


def tensors():
    """One of each type, scalars and empty ones among them, and one that is not contiguous."""
    torch.manual_seed(0)
    found = {f"a.{name}": torch.randint(0, 2, (3, 5)).to(dtype) for name, dtype in DTYPES.items()}
    found |= {"scalar": torch.tensor(-0.5), "empty": torch.zeros(0, 3), "turned": torch.randn(4, 6).T}
    return found


def same(a, b):
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype, name
        assert torch.equal(tensor, b[name]), name


def test_the_library_reads_what_is_written(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, tensors(), METADATA)
    same(load_file(path), tensors())
    with open_file(path, "pt") as file:
        assert file.metadata() == METADATA
    before = path.read_bytes()
    write_safetensors(path, dict(reversed(tensors().items())), dict(reversed(METADATA.items())))
    assert path.read_bytes() == before


def test_what_the_library_writes_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors().items()}, path, METADATA)
    found, metadata = read_safetensors(path)
    same(found, tensors())
    assert metadata == METADATA
    save_file({}, path)
    assert read_safetensors(path) == ({}, {})


def test_a_tensor_of_a_type_without_a_name_is_not_written(tmp_path):
    with pytest.raises(UserError, match=r"x: a is of type torch\.complex64"):
        write_safetensors(tmp_path / "x", {"a": torch.zeros(1, dtype=torch.complex64)}, {})
    assert not (tmp_path / "x").exists()


def file(header, data=b"\0" * 8, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


REFUSED = {
    "nothing": (b"", "ends before its header"),
    "half a length": (b"\0\0\0", "ends before its header"),
    "a header past the end": (file({}, length=10**6), "ends before its header"),
    "a header of 2^64 bytes": (file({}, length=2**64 - 1), "ends before its header"),
    "a huge header": (file(b" " * (HEADER_BYTES + 1)), "its header has 8,388,609 bytes"),
    "no JSON": (file(b"{]"), "Expecting"),
    "no text": (file(b"\xff\xfe\xff"), "decode"),
    "a list": (file([]), "is a list"),
    "a nest": (file(b'{"a":' * 2000 + b"1" + b"}" * 2000), "recursion|nested"),
    "a name twice": (file(b'{"a": 1, "a": 2}'), "twice"),
    "metadata of numbers": (file({"__metadata__": {"a": 1}}), "metadata are not texts"),
    "metadata in a list": (file({"__metadata__": ["a"]}), "metadata are not texts"),
    "a number as a tensor": (file({"a": 1}), "not exactly dtype"),
    "a key too many": (file({"a": entry() | {"code": "x"}}), "not exactly dtype"),
    "an unknown type": (file({"a": entry("F8_E4M3")}), "of type F8_E4M3"),
    "a type that is a list": (file({"a": entry(["F32"])}), "of type"),
    "a negative size": (file({"a": entry(shape=[-2])}), "whole numbers"),
    "a size of true": (file({"a": entry(shape=[True, 2])}), "whole numbers"),
    "a size in fractions": (file({"a": entry(shape=[2.0])}), "whole numbers"),
    "a huge size": (file({"a": entry(shape=[2**60, 0], offsets=[0, 0])}, b""), "whole numbers"),
    "a shape too large": (file({"a": entry(shape=[2**20, 2**20])}), "other offsets"),
    "offsets the wrong way round": (file({"a": entry(offsets=[8, 0])}), "other offsets"),
    "three offsets": (file({"a": entry(offsets=[0, 4, 8])}), "other offsets"),
    "offsets past the end": (file({"a": entry(offsets=[8, 16]), "b": entry()}), "end at byte 16"),
    "bytes of no tensor": (file({"a": entry(shape=[1], offsets=[0, 4])}), "end at byte 4"),
    "bytes before the first": (file({"a": entry(shape=[1], offsets=[4, 8])}), "gaps"),
    "an overlap": (file({"a": entry(), "b": entry()}), "overlap"),
    "a boolean of 2": (file({"a": entry("BOOL", [8])}, b"\1\0\1\0\1\0\1\2"), "neither 0 nor 1"),
    "NaN": (file({"a": entry()}, b"\0\0\xc0\x7f" * 2), "NaN or infinity in a"),
    "infinity": (file({"a": entry()}, b"\0\0\x80\x7f" * 2), "NaN or infinity in a"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_exactly_of_the_format_is_refused(case, tmp_path):
    content, reason = REFUSED[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason) as caught:
        read_safetensors(path)
    assert len(str(caught.value)) < 400
    assert str(path) in str(caught.value)


def test_each_file_cut_short_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, tensors(), METADATA)
    whole = path.read_bytes()
    for end in range(0, len(whole), 37):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match="is not a safetensors file"):
            read_safetensors(path)
