"""Smaller weights in an ONNX graph, by onnxruntime's own tools. Runs in the child of `job`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from foreshore.edge.onnx.folder import open_folder
from foreshore.errors import ForeshoreError, ModelError, SetupError
from foreshore.quantize.channel import Json, Tell
from foreshore.quantize.onnx.graph import LARGEST, load, quantize_embeddings, save
from foreshore.quantize.onnx.run import feeds, probe
from foreshore.quantize.onnx.types import BLOCK, ONNX_TYPES, OnnxType

__all__ = ["quantize"]

CALIBRATION_TEXTS, CALIBRATION_TOKENS = 32, 256  # of the corpus, what GPTQ computes each layer's inputs of
INT8_COMPUTE = 4  # MatMulNBits' accuracy level: activations are rounded to 8 bits, block by block


def quantize(job: Json, tell: Tell) -> Json:
    """Write the `kind` of the float32 graph `source` to `target`, a path of an .onnx file in a folder that has all
    the other files, and run it once. Returns notes.

    Raises `ModelError` for a graph that onnxruntime cannot quantize or run, `SetupError` for a missing tool.
    """
    kind, target = ONNX_TYPES[job["kind"]], Path(job["target"])
    notes: Iterable[str] = ()
    if kind.method != "float":
        try:
            notes = _write(kind, Path(job["source"]), target, job["texts"], job["special"])
        except (ForeshoreError, OSError, ImportError, MemoryError):
            raise
        except Exception as error:  # onnx, protobuf and onnxruntime raise all kinds
            raise ModelError(f"onnxruntime cannot make {kind.name!r} of this graph: {error}") from error
    probe(target)
    return {"notes": list(notes)}


def _write(kind: OnnxType, source: Path, target: Path, texts: list[str], special: bool) -> tuple[str, ...]:
    if kind.method == "half":
        save(_half(load(source)), target)
        return ()
    model, notes = (_int8(load(source)), ()) if kind.method == "int8" else _blocks(kind, source, texts, special)
    notes = (*notes, *quantize_embeddings(model))
    save(model, target)
    return (*notes, *_left(model))


def _half(model: Any) -> Any:
    """Weights, activations and the cache in float16. Norms stay float32: their squares leave float16's range."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    kept = [*DEFAULT_OP_BLOCK_LIST, "Pow", "ReduceMean", "Sqrt", "Reciprocal", "LayerNormalization"]
    return convert_float_to_float16(model, op_block_list=kept)


def _int8(model: Any) -> Any:
    """Weights in 8 bits with a scale for each column; activations are rounded to 8 bits as they come.

    The weights use 7 of their bits: CPUs without VNNI add two products in 16 bits, where those of 8 would not fit.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    written = Path(tempfile.mkdtemp()) / "int8.onnx"
    quantize_dynamic(
        model,
        written,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=model.ByteSize() > LARGEST,
        extra_options={"MatMulConstBOnly": True},
    )
    return load(written)


def _blocks(kind: OnnxType, source: Path, texts: list[str], special: bool) -> tuple[Any, tuple[str, ...]]:
    """Weights in 4 bits, `BLOCK` of a column with a scale and a zero point; and notes.

    onnxruntime's k-quant and GPTQ cannot write the zero points of columns with an odd number of blocks: such weights
    are rounded to nearest.
    """
    try:
        from onnxruntime.quantization import matmul_nbits_quantizer as tools
    except ImportError as error:  # its imports are more than onnxruntime's wheel asks for
        hint = "pip install 'foreshore[onnx-export]'"
        raise SetupError(f"onnxruntime's 4-bit quantizer cannot be loaded: {error}", hint=hint) from error
    model, nearest = load(source), tools.DefaultWeightOnlyQuantConfig(BLOCK, accuracy_level=INT8_COMPUTE)
    if kind.rounding == "RTN":
        return _rounded(tools, model, nearest), ()
    if kind.rounding == "HQQ":
        return _rounded(tools, model, tools.HQQWeightOnlyQuantConfig(BLOCK)), ()
    odd, even = _by_blocks(model)
    if odd:
        model = _rounded(tools, model, nearest, excluded=even)
    if kind.rounding == "k_quant":
        config = tools.KQuantWeightOnlyQuantConfig()
    else:
        data = list(feeds(open_folder(source), texts[:CALIBRATION_TEXTS], CALIBRATION_TOKENS, special=special))
        config = tools.GPTQWeightOnlyQuantConfig(data)
    notes = tuple(f"{name} is rounded to nearest: its columns have an odd number of blocks" for name in odd)
    return _rounded(tools, model, config), notes


def _rounded(tools: Any, model: Any, config: Any, excluded: Sequence[str] = ()) -> Any:
    quantizer = tools.MatMulNBitsQuantizer(
        model,
        block_size=BLOCK,
        is_symmetric=False,
        accuracy_level=INT8_COMPUTE,
        nodes_to_exclude=list(excluded),
        algo_config=config,
    )
    quantizer.process()
    return quantizer.model.model


def _by_blocks(model: Any) -> tuple[list[str], list[str]]:
    """The products whose weights are constants: those with an odd number of blocks in a column, and the others."""
    weights = {t.name: t.dims for t in model.graph.initializer if len(t.dims) == 2}
    products = [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in weights]
    odd = [n.name for n in products if -(-weights[n.input[1]][0] // BLOCK) % 2]
    return odd, [n.name for n in products if n.name not in odd]


def _left(model: Any) -> tuple[str, ...]:
    """What stayed in float32: products whose weights the quantizer passed over."""
    weights = {t.name: t for t in model.graph.initializer if len(t.dims) > 1}
    left = [n.name for n in model.graph.node if n.op_type in ("MatMul", "Gemm") and n.input[1] in weights]
    return tuple(f"{name} stays float32" for name in left)
