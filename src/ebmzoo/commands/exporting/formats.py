"""Writing an exported function as an ONNX file, or as a program of `torch.export`."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from ebmzoo.commands.exporting.functions import ExportedFunction, differs
from ebmzoo.data.fixed_noise import remembering_noise
from ebmzoo.errors import UserError
from ebmzoo.writing import write_whole

Format = Literal["onnx", "torch"]
OPSET = 20
"""The version of ONNX's operators, which onnxruntime 1.17 and later run."""
LARGEST = 2**31
"""The bytes that an ONNX file can have, of protobuf."""


def check_packages(form: Format) -> None:
    """Check that the packages that write the format are installed.

    Raises:
        UserError: One is not.
    """
    if form == "onnx" and (missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]):
        raise UserError(
            f"format onnx needs {' and '.join(missing)}: run `pip install 'ebmzoo[onnx]'`, or use --format torch"
        )


def write(function: ExportedFunction, form: Format, out: Path, facts: Mapping[str, str]) -> None:
    """Write the function with `facts` as the metadata of its file.

    Raises:
        UserError: It cannot be exported, or the file would be too large.
    """
    with _quietly(), remembering_noise(), torch.no_grad():
        if form == "torch":
            extra = {"facts.json": json.dumps(dict(facts), indent=2)}
            with _without_unused(function):
                program = _program(function)
            write_whole(out, lambda file: torch.export.save(program, file, extra_files=extra))
            return
        content = _onnx(function, facts)
    write_whole(out, content)


def _onnx(function: ExportedFunction, facts: Mapping[str, str]) -> bytes:
    try:
        made: Any = torch.onnx.export(
            _program(function),
            input_names=[function.argument],
            output_names=[function.name],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        model = made.model_proto
    except UserError:
        raise
    except Exception as error:  # the exporter has errors of its own for what ONNX lacks
        raise _cannot(function, error) from error
    for put in (*model.graph.input, *model.graph.output):
        put.type.tensor_type.shape.dim[0].dim_param = "batch"
    for key, value in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    if (size := model.ByteSize()) >= LARGEST:
        raise UserError(f"an ONNX file cannot have {size / 2**30:.3g} GiB; use --format torch")
    content: bytes = model.SerializeToString()
    return content


def _program(function: ExportedFunction) -> ExportedProgram:
    """The traced function of a batch of any size, which gives what the method does at several sizes.

    Raises:
        UserError: It cannot be traced, or gives something else.
    """
    x, batch = function.example(3), {0: Dim("batch")}
    function(x)  # draws the noise that is remembered
    try:
        try:
            program = torch.export.export(function, (x,), dynamic_shapes=(batch,), strict=False)
        except Exception:  # a branch on the size of the batch, which the other tracer can follow
            program = torch.export.export(function, (x,), dynamic_shapes=(batch,), strict=True)
    except Exception as error:
        raise _cannot(function, error) from error
    for n in (1, 5):
        if differs(program.module()(function.example(n)), function(function.example(n))):
            raise UserError(f"what: the {function.name} of a {_kind(function)} is another one once it is traced")
    return program


@contextmanager
def _without_unused(function: ExportedFunction) -> Iterator[None]:
    """Within it, weights and buffers that the function does not use, such as a replay buffer, are empty."""
    used, removed = _used(_program(function)), []
    for prefix, module in function.named_modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is not None and f"{prefix}.{name}" not in used:
                    removed.append((store, name, tensor))
    try:
        for store, name, tensor in removed:
            empty = torch.empty(0, dtype=tensor.dtype)
            store[name] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
        yield
    finally:
        for store, name, tensor in removed:
            store[name] = tensor


def _used(program: ExportedProgram) -> set[str]:
    signature = program.graph_signature
    of = signature.inputs_to_parameters | signature.inputs_to_buffers
    return {of[n.name] for n in program.graph.nodes if n.op == "placeholder" and n.name in of and n.users}


def _kind(function: ExportedFunction) -> str:
    return type(function.method).__name__


def _cannot(function: ExportedFunction, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:160]
    return UserError(f"what: the {function.name} of a {_kind(function)} cannot be exported ({reason})")


@contextmanager
def _quietly() -> Iterator[None]:
    """Within it the tracers print nothing: what matters becomes an error."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
