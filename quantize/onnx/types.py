"""The types of ONNX variants: what becomes of a graph's weights, and how its products are computed then."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from foreshore.errors import UsageError

__all__ = ["ONNX_F32", "ONNX_TYPES", "OnnxType", "is_onnx_type", "parse_onnx_types"]

Method = Literal["float", "half", "int8", "blocks"]
BLOCK = 32  # weights that share a scale and a zero point


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxType:
    """`rounding` is onnxruntime's word for how the 4-bit numbers are chosen, empty for other methods."""

    name: str
    method: Method
    rounding: str = ""

    @property
    def calibrated(self) -> bool:
        """Whether its rounding looks at what the weights are multiplied with."""
        return self.rounding == "GPTQ"

    @property
    def recipe(self) -> dict[str, Any]:
        return {"type": self.name, **({"block": BLOCK} if self.method == "blocks" else {})}


ONNX_F32 = "onnx-f32"
_ALL = (
    OnnxType(name=ONNX_F32, method="float"),
    OnnxType(name="onnx-f16", method="half"),
    OnnxType(name="onnx-int8", method="int8"),
    OnnxType(name="onnx-int4-rtn", method="blocks", rounding="RTN"),
    OnnxType(name="onnx-int4-kquant", method="blocks", rounding="k_quant"),
    OnnxType(name="onnx-int4-hqq", method="blocks", rounding="HQQ"),
    OnnxType(name="onnx-int4-gptq", method="blocks", rounding="GPTQ"),
)
ONNX_TYPES = {t.name: t for t in _ALL}


def is_onnx_type(name: str) -> bool:
    """Whether `name`, right or mistyped, is meant as a type of ONNX variants."""
    return name.strip().lower().startswith("onnx")


def parse_onnx_types(types: Iterable[str]) -> tuple[OnnxType, ...]:
    """The types, each once. Raises `UsageError` with the closest names and the whole list."""
    wanted = tuple(dict.fromkeys(t.strip().lower() for t in types if t.strip()))
    there = f"there are {', '.join(ONNX_TYPES)}"
    if not wanted:
        raise UsageError("no ONNX type given", hint=there)
    for name in wanted:
        if name not in ONNX_TYPES:
            close = get_close_matches(name, ONNX_TYPES, n=3)
            guess = f"did you mean {' or '.join(close)}? " if close else ""
            raise UsageError(f"{name!r} is not an ONNX type", hint=guess + there)
    return tuple(ONNX_TYPES[name] for name in wanted)
