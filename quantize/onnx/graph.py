"""ONNX graphs in memory: read, written, and changed where no library does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshore.edge.onnx.encoder import POOLED
from foreshore.edge.onnx.folder import is_onnx, model_file
from foreshore.errors import ModelError
from foreshore.quantize.onnx.types import BLOCK

__all__ = ["DATA", "LARGEST", "load", "pool", "quantize_embeddings", "save", "weights"]

DATA = "model.onnx_data"
LARGEST = 1 << 30  # bytes of a graph in one file; protobuf ends at 2 GiB
MICROSOFT = "com.microsoft"  # the domain of onnxruntime's own operators
MIN_ROWS = 256  # smaller tables are not worth it


def load(path: Path) -> Any:
    """The model with all its weights."""
    import onnx

    return onnx.load(str(path))


def save(model: Any, path: Path) -> None:
    """Write `model`; a large one has its weights in a file of their own, `model.onnx_data`."""
    import onnx

    data = path.with_name(DATA)
    data.unlink(missing_ok=True)
    if model.ByteSize() <= LARGEST:
        onnx.save_model(model, str(path))
    else:
        onnx.save_model(model, str(path), save_as_external_data=True, location=DATA, size_threshold=1024)


def weights(model: Path) -> Path:
    """The file that has a model's weights: of a large graph the one beside it, else the graph, or `model` itself."""
    file = model_file(model) if is_onnx(model) else model
    data = file.with_name(DATA)
    return data if file.suffix == ".onnx" and data.is_file() else file


def pool(model: Any, mode: str) -> Any:
    """Let the encoder's graph give one vector for each text, made of its tokens' by sentence-transformers' `mode`."""
    from onnx import TensorProto, helper

    graph = model.graph
    tokens, width = _hidden(graph)
    constants, nodes = _POOLS[mode](tokens)
    graph.initializer.extend(constants)
    graph.node.extend(nodes)
    graph.output.append(helper.make_tensor_value_info(POOLED, TensorProto.FLOAT, ["batch_size", width]))
    return model


def quantize_embeddings(model: Any) -> tuple[str, ...]:
    """Round the tables that tokens are looked up in to 8 bits, `BLOCK` numbers with a scale and a zero point.

    Tables that something else reads too, and small ones, stay. Returns notes on tables whose rows do not fit.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph, notes = model.graph, []
    tables = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) == 2}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for name, tensor in tables.items():
        nodes = readers.get(name, [])
        if tensor.dims[0] < MIN_ROWS or not nodes or not all(_looks_up(node, name) for node in nodes):
            continue
        if tensor.dims[1] % BLOCK:
            notes.append(f"{name} stays float32: its rows of {tensor.dims[1]} do not divide by {BLOCK}")
            continue
        parts = _rounded(numpy_helper.to_array(tensor))
        names = [f"{name}_Q8", f"{name}_scales", f"{name}_zeros"]
        graph.initializer.extend(numpy_helper.from_array(a, n) for a, n in zip(parts, names, strict=True))
        for node in nodes:
            node.CopyFrom(_block_lookup(helper, node, names))
        graph.initializer.remove(tensor)
    _import_operators(model, helper)
    return tuple(notes)


def _hidden(graph: Any) -> tuple[str, int]:
    for output in graph.output:
        dims = output.type.tensor_type.shape.dim
        if output.name in ("last_hidden_state", "token_embeddings") and len(dims) == 3:
            return output.name, dims[2].dim_value
    raise ModelError(f"the graph gives {[o.name for o in graph.output][:3]}, no vectors of tokens")


def _constant(name: str, value: Any, kind: type[np.generic] = np.int64) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.array(value, kind), name)


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(kind, inputs, [output], name=f"pool_{output}", **attributes)


def _first(tokens: str) -> tuple[list[Any], list[Any]]:
    return [_constant("pool_zero", 0)], [_node("Gather", [tokens, "pool_zero"], POOLED, axis=1)]


def _last(tokens: str) -> tuple[list[Any], list[Any]]:
    """Texts are padded at their ends."""
    return [_constant("pool_axis", [1]), _constant("pool_one", 1)], [
        _node("ReduceSum", ["attention_mask", "pool_axis"], "pool_length", keepdims=1),
        _node("Sub", ["pool_length", "pool_one"], "pool_row"),
        _node("GatherND", [tokens, "pool_row"], POOLED, batch_dims=1),
    ]


def _largest(tokens: str) -> tuple[list[Any], list[Any]]:
    lowest = np.finfo(np.float16).min  # finite, and a number in every float type
    constants = [_constant("pool_lowest", lowest, np.float32), _constant("pool_axes", [2]), _constant("pool_zero", 0)]
    return constants, [
        _node("Unsqueeze", ["attention_mask", "pool_axes"], "pool_mask"),
        _node("Greater", ["pool_mask", "pool_zero"], "pool_counts"),
        _node("Where", ["pool_counts", tokens, "pool_lowest"], "pool_masked"),
        _node("Transpose", ["pool_masked"], "pool_columns", perm=[0, 2, 1]),  # ReduceMax differs between opsets
        _node("GlobalMaxPool", ["pool_columns"], "pool_most"),
        _node("Flatten", ["pool_most"], POOLED),
    ]


_POOLS = {
    "pooling_mode_cls_token": _first,
    "pooling_mode_lasttoken": _last,
    "pooling_mode_max_tokens": _largest,
}


def _looks_up(node: Any, name: str) -> bool:
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    return node.op_type == "Gather" and node.input[0] == name and node.input[1] != name and axis == 0


def _rounded(table: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Numbers, scales and zero points; zero itself is always among what can be written."""
    blocks = table.reshape(len(table), -1, BLOCK)
    low, high = np.minimum(blocks.min(2), 0), np.maximum(blocks.max(2), 0)
    scales = np.where(high > low, (high - low) / 255, 1).astype(np.float32)
    zeros = np.round(-low / scales).clip(0, 255)
    numbers = np.round(blocks / scales[..., None] + zeros[..., None]).clip(0, 255)
    return numbers.astype(np.uint8).reshape(table.shape), scales, zeros.astype(np.uint8)


def _block_lookup(helper: Any, node: Any, names: list[str]) -> Any:
    inputs = [names[0], node.input[1], *names[1:]]
    options = {"gather_axis": 0, "quantize_axis": 1, "block_size": BLOCK, "bits": 8}
    return helper.make_node(
        "GatherBlockQuantized", inputs, list(node.output), name=node.name, domain=MICROSOFT, **options
    )


def _import_operators(model: Any, helper: Any) -> None:
    if MICROSOFT not in {o.domain for o in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
