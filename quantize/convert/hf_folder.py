"""A Hugging Face folder, checked: its config, its vocabulary, and every weight under its GGUF name."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import MODEL_ARCH_NAMES, GGUFWriter, PoolingType

from foreshore.errors import ModelError
from foreshore.quantize.convert.families import family_of
from foreshore.quantize.convert.family import Family
from foreshore.quantize.convert.hf_config import Config
from foreshore.quantize.convert.naming import by_gguf_name
from foreshore.quantize.convert.pieces import pieces_vocab, read_pieces
from foreshore.quantize.convert.tokenizer import read_vocab
from foreshore.quantize.convert.vocab import Vocab
from foreshore.quantize.convert.weights import INDEX, Weight, read_weights, weight_files

__all__ = ["META_FILES", "HfFolder", "open_folder", "read_family", "read_object", "used_files"]

PIECES = "tokenizer.model"
MODULES = "modules.json"  # the steps of a sentence encoder
META_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    PIECES,
    "added_tokens.json",
    "chat_template.jinja",
    MODULES,
    "1_Pooling/config.json",
    INDEX,
)
_KEEP_F32 = ("token_types.weight", "position_embd.weight")  # as llama.cpp's quantizer leaves them alone
_POOLING = {
    "pooling_mode_mean_tokens": PoolingType.MEAN,
    "pooling_mode_cls_token": PoolingType.CLS,
    "pooling_mode_lasttoken": PoolingType.LAST,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HfFolder:
    """A folder whose config, vocabulary and list of tensors were read and fit each other."""

    path: Path
    config: Config  # in the family's words
    family: Family
    vocab: Vocab
    weights: dict[str, Weight]  # by GGUF name, in the order of writing
    chat_template: str | None
    generation: dict[str, Any]
    pooling: PoolingType | None
    notes: tuple[str, ...]  # what a reader should know

    @property
    def precision(self) -> str:
        """f32, f16 or bf16: what most weights have."""
        counts: Counter[str] = Counter()
        for name in self.weights:
            counts[self.written_type(name)] += self.written_bytes(name)
        return counts.most_common(1)[0][0].lower()

    @property
    def nbytes(self) -> int:
        """Of all tensors as they will be written."""
        return sum(map(self.written_bytes, self.weights))

    def written_type(self, name: str) -> str:
        """F32 for vectors and small tables, which llama.cpp wants so; else what the weight has."""
        weight = self.weights[name]
        return "F32" if len(weight.shape) == 1 or name in _KEEP_F32 else weight.dtype

    def written_bytes(self, name: str) -> int:
        weight = self.weights[name]
        return weight.nbytes * 2 if self.written_type(name) != weight.dtype else weight.nbytes


def used_files(folder: Path) -> tuple[Path, ...]:
    """The files of `folder` that a conversion reads; their hashes identify the source."""
    meta = (folder / name for name in META_FILES)
    return (*(p for p in meta if p.is_file()), *weight_files(folder))


def open_folder(folder: Path) -> HfFolder:
    """Read everything but the weights. Raises `ModelError` for what is missing, damaged or not supported."""
    family, config, notes = read_family(folder)
    if found := config.get("quantization_config"):
        method = found.get("quant_method") if isinstance(found, dict) else found
        raise ModelError(f"{str(folder)!r} is quantized already, by {method!r}", hint="fetch the original weights")
    weights = by_gguf_name(read_weights(folder), family, config)
    generation, tokens = read_object(folder / "generation_config.json"), read_object(folder / "tokenizer_config.json")
    vocab = _vocab(folder, tokens, generation, config, weights["token_embd.weight"].shape[0])
    return HfFolder(
        path=folder,
        config=config,
        family=family,
        vocab=vocab,
        weights=weights,
        chat_template=_chat_template(folder, tokens),
        generation=generation,
        pooling=PoolingType.RANK if family.ranks else _pooling(folder),
        notes=(*vocab.notes, *notes),
    )


def read_family(folder: Path) -> tuple[Family, Config, tuple[str, ...]]:
    """The family, config.json in its words, and what a reader should know. Raises `ModelError`."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{str(folder)!r} has no config.json", hint="give the folder of a Hugging Face model")
    raw = read_object(path)
    try:
        family = family_of(raw)
        config = family.settings(raw)
        notes = family.header(GGUFWriter(None, MODEL_ARCH_NAMES[family.arch]), config)  # for its checks
        family.computed(config)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ModelError(f"{str(path)!r} is damaged: {type(error).__name__} {error}") from error
    return family, config, notes


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, empty if there is no such file. Raises `ModelError` for what is none."""
    value = _json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise ModelError(f"{str(path)!r} holds no JSON object")
    return value


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{str(path)!r} is not JSON: {error}") from error


def _vocab(folder: Path, tokens: dict[str, Any], generation: dict[str, Any], config: Config, rows: int) -> Vocab:
    ends = [*_ids(generation.get("eos_token_id")), *_ids(config.get("eos_token_id"))]
    if (folder / "tokenizer.json").is_file():
        return read_vocab(read_object(folder / "tokenizer.json"), tokens, ends, rows)
    if (folder / PIECES).is_file():
        added = read_object(folder / "added_tokens.json")
        return pieces_vocab(read_pieces(folder / PIECES), tokens, added, ends, rows)
    raise ModelError(
        f"{str(folder)!r} has neither tokenizer.json nor {PIECES}",
        hint="save the tokenizer with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)",
    )


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [i for i in values if type(i) is int]


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    """The file beside the tokenizer wins over the entry in its config; of several the one named default."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ModelError(f"{str(file)!r} cannot be read: {error}") from error
    value = config.get("chat_template")
    if isinstance(value, list):
        value = next((t.get("template") for t in value if t.get("name") == "default"), None)
    return value if isinstance(value, str) else None


def _pooling(folder: Path) -> PoolingType | None:
    _check_modules(folder / MODULES)
    config = read_object(folder / "1_Pooling" / "config.json")
    chosen = [pooling for key, pooling in _POOLING.items() if config.get(key)]
    if config and len(chosen) != 1:
        on = [k for k, v in config.items() if k.startswith("pooling_mode") and v]
        raise ModelError(f"1_Pooling/config.json pools by {on}; supported is one of {list(_POOLING)}")
    return chosen[0] if chosen else None


def _check_modules(path: Path) -> None:
    """A sentence encoder's steps after its model: llama.cpp pools and scales to unit length, and nothing else."""
    steps = _json(path) if path.is_file() else []
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ModelError(f"{str(path)!r} holds no list of steps")
    kinds = [str(step.get("type")) for step in steps]
    if others := [kind for kind in kinds if kind.rpartition(".")[2] not in ("Transformer", "Pooling", "Normalize")]:
        raise ModelError(f"{path.name} has the step {others[0]!r}, which llama.cpp could not follow")
