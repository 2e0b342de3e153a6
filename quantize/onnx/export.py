"""A Hugging Face folder as an ONNX graph with the files beside it, by optimum: what the edge runtime's engine loads."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from foreshore.edge.onnx.encoder import pooling
from foreshore.edge.onnx.folder import MODEL, open_folder
from foreshore.errors import ForeshoreError, ModelError
from foreshore.quantize.channel import Json, Tell
from foreshore.quantize.convert.weights import Weight, read_weights
from foreshore.quantize.onnx.graph import load, pool, save

__all__ = ["SENTENCE_FILES", "HfSource", "export", "open_source"]

SENTENCE_FILES = ("modules.json", "1_Pooling/config.json")
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
)
_WRITES = ("ForCausalLM", "LMHeadModel")
_DTYPES = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True, kw_only=True)
class HfSource:
    """A folder that may be exported: what can be known without loading it."""

    path: Path
    task: str  # optimum's word for what the graph computes
    architecture: str
    parameters: int

    @property
    def nbytes(self) -> int:
        """Of an export in float32; tied weights may be written twice."""
        return 4 * self.parameters


def open_source(folder: Path) -> HfSource:
    """Raises `ModelError` for a folder that cannot become an encoder or a decoder in ONNX."""
    config = _config(folder)
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        hint = "save the tokenizer with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)"
        raise ModelError(f"{str(folder)!r} has no tokenizer", hint=hint)
    kind = config.get("model_type")
    names = config.get("architectures")
    if not isinstance(kind, str) or not isinstance(names, list) or not names:
        raise ModelError(f"config.json of {folder.name!r} names no model_type and architectures")
    if config.get("is_encoder_decoder"):
        raise ModelError(f"{kind!r} is an encoder with a decoder", hint="export a decoder, or an encoder alone")
    weights = [w for w in read_weights(folder).values() if w.dtype in _DTYPES]
    return HfSource(
        path=folder,
        task="text-generation-with-past" if _writes(folder, str(names[0])) else "feature-extraction",
        architecture=kind,
        parameters=sum(prod(w.shape) for w in weights),
    )


def export(job: Json, tell: Tell) -> Json:
    """In the child: write `source`'s graph in float32, its tokenizer and configuration to the empty folder `target`.

    Raises `ModelError` for weights that are no numbers and for what optimum cannot export.
    """
    source, target = Path(job["source"]), Path(job["target"])
    _check_weights(read_weights(source).values(), tell)
    from optimum.exporters.onnx import main_export

    try:
        main_export(str(source), output=str(target), task=job["what"], library_name="transformers")
    except (ForeshoreError, ImportError, MemoryError):
        raise
    except Exception as error:  # the exporter, torch's tracer and transformers raise all kinds
        if isinstance(error, OSError) and error.errno is not None:  # the system's; transformers raises it without
            raise
        reason = str(error).strip().split("\n")[0][:300] or type(error).__name__
        hint = "optimum's documentation lists the architectures that it knows; GGUF may know this one: --types q4_k_m"
        raise ModelError(f"optimum cannot export this {job['architecture']!r} model: {reason}", hint=hint) from error
    _pool_in_graph(source, target)
    return {}


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        hint = "give the folder of a Hugging Face model"
        raise ModelError(f"{str(folder)!r} has no config.json", hint=hint) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{str(path)!r} is damaged: {error}", hint="fetch the model again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{str(path)!r} holds no JSON object", hint="fetch the model again")
    return config


def _writes(folder: Path, architecture: str) -> bool:
    """A decoder that sentence-transformers pools is used as an encoder."""
    pooled = any((folder / name).is_file() for name in SENTENCE_FILES)
    return architecture.endswith(_WRITES) and not pooled


def _check_weights(weights: Any, tell: Tell) -> None:
    found: list[Weight] = [w for w in weights if w.dtype in _DTYPES]
    total, done = sum(w.nbytes for w in found), 0
    for weight in found:
        for row in np.array_split(weight.float32().reshape(-1), max(1, weight.nbytes >> 26)):
            if not np.isfinite(row).all():
                raise ModelError(f"the weights {weight.name!r} hold NaN or Inf", hint="fetch the model again")
        done += weight.nbytes
        tell(done, total)


def _pool_in_graph(source: Path, target: Path) -> None:
    """A pooling other than the mean becomes part of the graph: a variant in the store has no folder for its file.

    Raises `ModelError` for one that is not known, and for a layer of weights behind it.
    """
    there = [name for name in SENTENCE_FILES if (source / name).is_file()]
    for name in there:
        (target / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, target / name)
    folder = open_folder(target / MODEL)
    pooling(folder)
    modes = [name for name, value in folder.pooling.items() if name.startswith("pooling_mode_") and value is True]
    if modes and modes != ["pooling_mode_mean_tokens"]:
        save(pool(load(folder.path), modes[0]), folder.path)
    for name in there:
        (target / name).unlink()
    shutil.rmtree(target / "1_Pooling", ignore_errors=True)
