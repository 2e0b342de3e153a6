"""Reads what an .onnx file says of itself, without running anything: the parent checks a model before a worker does.

An ONNX file is one protobuf message. Only the fields needed here are read, by the numbers of onnx.proto:
tensors wherever they stand, for their types, sizes and the files they lie in, the nodes that unpack weights, and of the
graph's inputs those that keys and values come back by.
"""

from __future__ import annotations

import math
import mmap
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from foreshore.errors import ModelError, NotFound
from foreshore.protobuf import fields, message, text, varints

__all__ = ["PAST", "OnnxFile", "inspect"]

PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)")  # the inputs of a decoder for what it computed before
MAX_DEPTH = 16  # of graphs within nodes
# TensorProto.DataType of weights: name, bits
_WEIGHTS = {
    1: ("fp32", 32), 2: ("uint8", 8), 3: ("int8", 8), 10: ("fp16", 16), 11: ("fp64", 64), 16: ("bf16", 16),
    17: ("fp8", 8), 19: ("fp8", 8), 21: ("uint4", 4), 22: ("int4", 4),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFile:
    parameters: int  # weights, packed ones counted as what they unpack to
    size_bytes: int  # with the files that hold its tensors
    weights: str  # the type that most of their bytes have, such as "fp32" or "int8"
    token_bytes: int  # keys and values of one token; 0: the graph keeps none


@dataclass(slots=True)
class _Found:
    tensors: list[_Tensor] = field(default_factory=list)
    packed: dict[str, int] = field(default_factory=dict)  # tensor -> bits of each of the numbers packed into it
    external: set[str] = field(default_factory=set)
    token_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    kind: int
    elements: int


def inspect(path: Path) -> OnnxFile:
    """Raises `NotFound`, or `ModelError` for what is no ONNX model or names tensors outside its folder."""
    found = _Found()
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))  # unmapped with its last view
        _model(data, found)
    except FileNotFoundError as error:
        raise NotFound(f"no such file: {str(path)!r}", hint="give a folder that holds model.onnx") from error
    except (OSError, ValueError, IndexError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{path.name!r} is no ONNX model: {error}", hint="export it again") from error
    size = len(data) + sum(_external(path.parent, name).stat().st_size for name in found.external)
    return OnnxFile(
        parameters=_parameters(found), size_bytes=size, weights=_weights(found), token_bytes=found.token_bytes
    )


def _external(folder: Path, location: str) -> Path:
    """The file of a tensor's data: inside `folder`, or a hostile model would have any file read as weights."""
    parts = PurePosixPath(location.replace("\\", "/"))
    if not location or parts.is_absolute() or ".." in parts.parts or ":" in location:
        raise ModelError(f"the model wants to read {location!r}, outside of its folder", hint="do not trust this model")
    if not (folder / location).is_file():
        raise ModelError(f"the model's weights {location!r} are missing", hint=f"put them into {str(folder)!r}")
    return folder / location


def _parameters(found: _Found) -> int:
    weights = (t for t in found.tensors if t.kind in _WEIGHTS)
    return sum(t.elements * 8 // found.packed.get(t.name, 8) for t in weights)


def _weights(found: _Found) -> str:
    size: Counter[str] = Counter()
    for tensor in found.tensors:
        if tensor.kind in _WEIGHTS:
            name, bits = _WEIGHTS[tensor.kind]
            packed = found.packed.get(tensor.name)
            size[name if packed is None else f"int{packed}"] += tensor.elements * bits
    return size.most_common(1)[0][0] if size else "none"


def _model(data: memoryview, found: _Found) -> None:
    graphs = 0
    for number, value in fields(data):
        if number == 7:
            _graph(message(value), found, 0)
            graphs += 1
        elif number == 25:  # functions
            for inner, node in fields(message(value)):
                if inner == 7:
                    _node(message(node), found, 1)
    if not graphs:
        raise ValueError("it has no graph")


def _graph(data: memoryview, found: _Found, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"graphs are nested more than {MAX_DEPTH} deep")
    for number, value in fields(data):
        if number == 1:
            _node(message(value), found, depth)
        elif number == 5:
            _tensor(message(value), found)
        elif number == 15:  # sparse: values and indices
            for inner, tensor in fields(message(value)):
                if inner in (1, 2):
                    _tensor(message(tensor), found)
        elif number == 11 and depth == 0:
            found.token_bytes += _past_bytes(message(value))


def _past_bytes(data: memoryview) -> int:
    """Bytes of one token in an input that is a layer's keys or values, (rows, heads, tokens, width); else 0."""
    name, shape, bits = "", memoryview(b""), 0
    for number, value in fields(data):
        if number == 1:
            name = text(value)
        elif number == 2:
            for tensor in (message(v) for n, v in fields(message(value)) if n == 1):
                for inner, part in fields(tensor):
                    if inner == 1 and isinstance(part, int):
                        bits = _WEIGHTS.get(part, ("", 0))[1]
                    elif inner == 2:
                        shape = message(part)
    if not PAST.fullmatch(name):
        return 0
    sizes = [next((v for n, v in fields(message(dim)) if n == 1 and isinstance(v, int)), 0) for _, dim in fields(shape)]
    return sizes[1] * sizes[3] * bits // 8 if len(sizes) == 4 else 0


def _node(data: memoryview, found: _Found, depth: int) -> None:
    inputs: list[str] = []
    operator, bits = "", 4
    for number, value in fields(data):
        if number == 1:
            inputs.append(text(value))
        elif number == 4:
            operator = text(value)
        elif number == 5:
            bits = _attribute(message(value), found, depth) or bits
    if operator in ("MatMulNBits", "GatherBlockQuantized") and len(inputs) > 1:
        found.packed[inputs[operator == "MatMulNBits"]] = bits


def _attribute(data: memoryview, found: _Found, depth: int) -> int:
    """The value, where the attribute is `bits`, else 0; tensors and graphs in it are taken in."""
    name, whole = "", 0
    for number, value in fields(data):
        if number == 1:
            name = text(value)
        elif number == 3 and isinstance(value, int):
            whole = value
        elif number in (5, 10):
            _tensor(message(value), found)
        elif number in (6, 11):
            _graph(message(value), found, depth + 1)
        elif number in (22, 23):
            for inner, tensor in fields(message(value)):
                if inner in (1, 2):
                    _tensor(message(tensor), found)
    return whole if name == "bits" and whole in (2, 3, 4, 5, 6, 7, 8) else 0


def _tensor(data: memoryview, found: _Found) -> None:
    name, kind, dims = "", 0, []
    for number, value in fields(data):
        if number == 1:
            dims += [value] if isinstance(value, int) else list(varints(value))
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8:
            name = text(value)
        elif number == 13:
            entry = {inner: text(part) for inner, part in fields(message(value))}
            if entry.get(1) == "location":
                found.external.add(entry.get(2, ""))
    found.tensors.append(_Tensor(name, kind, math.prod(dims)))
