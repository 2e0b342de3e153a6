"""A Hugging Face folder as one GGUF file that keeps every weight's own precision.

Matrices stay in the type they have (bf16, f16 or f32), so nothing is lost before quantization; vectors and
small tables, which llama.cpp wants so, become f32. Weights are copied piece by piece from the mapped file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, LlamaFileType, PoolingType, get_tensor_name_map
from numpy.typing import NDArray

from foreshore.disk import disk_errors, require_space
from foreshore.errors import ModelError
from foreshore.quantize.families import Family, family_of, heads, number, rope_factors
from foreshore.quantize.vocab import Vocab, read_vocab
from foreshore.quantize.weights import INDEX, Weight, read_weights, weight_files

__all__ = ["HfFolder", "convert", "open_folder", "used_files"]

PIECE = 16 << 20  # bytes copied at a time
_META_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "1_Pooling/config.json",
    INDEX,
)
_TYPES = {"F32": GGMLQuantizationType.F32, "F16": GGMLQuantizationType.F16, "BF16": GGMLQuantizationType.BF16}
_FILE_TYPES = {"F32": LlamaFileType.ALL_F32, "F16": LlamaFileType.MOSTLY_F16, "BF16": LlamaFileType.MOSTLY_BF16}
_KEEP_F32 = ("token_types.weight", "position_embd.weight")  # as llama.cpp's quantizer leaves them alone
_POOLING = {
    "pooling_mode_mean_tokens": PoolingType.MEAN,
    "pooling_mode_cls_token": PoolingType.CLS,
    "pooling_mode_lasttoken": PoolingType.LAST,
}
_BESIDE = ("rotary_emb.inv_freq", "pooler.", "cls.", "position_ids", "attention.masked_bias")  # no part of the model


@dataclass(frozen=True, slots=True, kw_only=True)
class HfFolder:
    """A folder whose config, vocabulary and list of tensors were read and fit each other."""

    path: Path
    config: dict[str, Any]
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
        return self._most().lower()

    @property
    def nbytes(self) -> int:
        """Of all tensors as they will be written."""
        return sum(_written_bytes(name, w) for name, w in self.weights.items())

    def _most(self) -> str:
        counts: Counter[str] = Counter()
        for name, weight in self.weights.items():
            counts[_written_type(name, weight)] += _written_bytes(name, weight)
        return counts.most_common(1)[0][0]


def used_files(folder: Path) -> tuple[Path, ...]:
    """The files of `folder` that a conversion reads; their hashes identify the source."""
    meta = (folder / name for name in _META_FILES)
    return (*(p for p in meta if p.is_file()), *weight_files(folder))


def open_folder(folder: Path) -> HfFolder:
    """Read everything but the weights. Raises `ModelError` for what is missing, damaged or not supported."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{str(folder)!r} has no config.json", hint="give the folder of a Hugging Face model")
    config = _json(folder / "config.json")
    try:
        family = family_of(config)
        notes = family.header(GGUFWriter(None, MODEL_ARCH_NAMES[family.arch]), config)  # for its checks
        rope_factors(config)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ModelError(f"{str(folder / 'config.json')!r} is damaged: {type(error).__name__} {error}") from error
    weights = _by_gguf_name(read_weights(folder), family, config)
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"{str(folder)!r} has no tokenizer.json",
            hint="save the tokenizer with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)",
        )
    generation = _json(folder / "generation_config.json")
    vocab = read_vocab(
        _json(folder / "tokenizer.json"),
        tokens := _json(folder / "tokenizer_config.json"),
        [*_ids(generation.get("eos_token_id")), *_ids(config.get("eos_token_id"))],
        weights["token_embd.weight"].shape[0],
    )
    return HfFolder(
        path=folder,
        config=config,
        family=family,
        vocab=vocab,
        weights=weights,
        chat_template=_chat_template(folder, tokens),
        generation=generation,
        pooling=_pooling(_json(folder / "1_Pooling" / "config.json")),
        notes=(*vocab.notes, *notes),
    )


def convert(source: HfFolder, target: Path, name: str, progress: Callable[[int], None]) -> None:
    """Write `target`. `progress` is told the bytes written so far. Raises `SetupError` if the disk is full."""
    require_space(target.parent, source.nbytes)
    with disk_errors(target.parent, source.nbytes):
        writer = GGUFWriter(target, MODEL_ARCH_NAMES[source.family.arch])
        try:
            _header(writer, source, name)
            _tensors(writer, source, progress)
        finally:
            writer.close()


def _header(writer: GGUFWriter, source: HfFolder, name: str) -> None:
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(_FILE_TYPES[source.precision.upper()])
    writer.add_quantization_version(2)
    source.family.header(writer, source.config)
    writer.add_vocab_size(len(source.vocab.tokens))
    if source.pooling is not None:
        writer.add_pooling_type(source.pooling)
    _sampling(writer, source.generation)
    _vocabulary(writer, source.vocab)
    if source.chat_template:
        writer.add_chat_template(source.chat_template)


def _sampling(writer: GGUFWriter, generation: dict[str, Any]) -> None:
    """What the makers advise; `do_sample: false` is greedy, whatever else stands there."""
    if generation.get("do_sample") is False:
        writer.add_sampling_temp(0.0)
        return
    if isinstance(value := generation.get("temperature"), (int, float)):
        writer.add_sampling_temp(float(value))
    if isinstance(value := generation.get("top_p"), (int, float)):
        writer.add_sampling_top_p(float(value))
    if isinstance(value := generation.get("top_k"), int):
        writer.add_sampling_top_k(value)
    if isinstance(value := generation.get("min_p"), (int, float)):
        writer.add_sampling_min_p(float(value))


def _vocabulary(writer: GGUFWriter, vocab: Vocab) -> None:
    writer.add_tokenizer_model(vocab.model)
    writer.add_tokenizer_pre(vocab.pre)
    writer.add_token_list(vocab.tokens)
    writer.add_token_types(vocab.types)
    if vocab.scores:
        writer.add_token_scores(vocab.scores)
    if vocab.merges:
        writer.add_token_merges(vocab.merges)
    for kind, token in vocab.special.items():
        key = {"unk": "unknown", "sep": "seperator", "pad": "padding"}.get(kind, kind)  # GGUF's own spelling
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", token)
    for flag, value in vocab.flags.items():
        writer.add_bool(f"tokenizer.ggml.{flag}", value)


def _tensors(writer: GGUFWriter, source: HfFolder, progress: Callable[[int], None]) -> None:
    factors = rope_factors(source.config) if source.family.permute_qk else None
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for name, weight in source.weights.items():
        kind = _TYPES[_written_type(name, weight)]
        size = _written_bytes(name, weight)
        writer.add_tensor_info(name, weight.shape, np.dtype(np.float32), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    file, done = writer.fout[0], 0
    writer.write_padding(file, file.tell())
    if factors is not None:
        _copy(file, factors, lambda n: None)
        writer.write_padding(file, factors.nbytes)
    for name, weight in source.weights.items():
        data = _data(name, weight, source)
        _copy(file, data, lambda n, done=done: progress(done + n))  # type: ignore[misc]
        writer.write_padding(file, data.nbytes)
        done += data.nbytes
    file.flush()


def _copy(file: BinaryIO, data: NDArray[Any], progress: Callable[[int], None]) -> None:
    view = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
    for start in range(0, len(view), PIECE):
        file.write(view[start : start + PIECE])
        progress(min(start + PIECE, len(view)))


def _data(name: str, weight: Weight, source: HfFolder) -> NDArray[Any]:
    data = weight.float32() if _written_type(name, weight) != weight.dtype else weight.raw()
    n_heads, n_kv, _ = heads(source.config)
    if source.family.permute_qk and ".attn_q." in name:
        return _interleave(data, n_heads)
    if source.family.permute_qk and ".attn_k." in name:
        return _interleave(data, n_kv)
    return data


def _interleave(data: NDArray[Any], n_heads: int) -> NDArray[Any]:
    """Rows of each head from (first half, second half) to neighbouring pairs."""
    halves = data.reshape(n_heads, 2, -1, *data.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(data.shape)


def _written_type(name: str, weight: Weight) -> str:
    return "F32" if len(weight.shape) == 1 or name in _KEEP_F32 else weight.dtype


def _written_bytes(name: str, weight: Weight) -> int:
    return weight.nbytes * 2 if _written_type(name, weight) != weight.dtype else weight.nbytes


def _by_gguf_name(weights: dict[str, Weight], family: Family, config: dict[str, Any]) -> dict[str, Weight]:
    names = get_tensor_name_map(family.arch, number(config, "num_hidden_layers"))
    required, optional = family.required(config), family.optional(config)
    found: dict[str, Weight] = {}
    for name, weight in sorted(weights.items()):
        if any(part in name for part in _BESIDE):
            continue
        target = names.get_name(_plain_name(name), try_suffixes=(".weight", ".bias"))
        if target == "output.weight" and target not in required:
            continue  # tied: it is the embedding once more
        shape = (required | optional).get(target or "")
        if target is None or shape is None:
            raise ModelError(f"tensor {name!r} has no place in this architecture", hint="is config.json of this model?")
        if weight.dtype not in _TYPES or not _fits(weight.shape, shape):
            raise ModelError(f"tensor {name!r} is {weight.dtype} {weight.shape}, config.json makes it {shape}")
        found[target] = weight
    missing = [name for name in required if name not in found]
    if missing:
        raise ModelError(
            f"the weights lack {len(missing)} tensors, among them {missing[0]!r}", hint="fetch the model again"
        )
    return found


def _plain_name(name: str) -> str:
    """Old BERT names a norm's weight gamma and its bias beta, and puts `bert.` before everything."""
    name = name.removeprefix("bert.")
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        name = name.removesuffix(old) + new if name.endswith(old) else name
    return name


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(w in (-1, n) for n, w in zip(shape, wanted, strict=True))


def _json(path: Path) -> dict[str, Any]:
    """The object in `path`, empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{str(path)!r} holds no JSON object")
    return value


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [i for i in values if type(i) is int]


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    """The file beside the tokenizer wins over the entry in its config; of several the one named default."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    value = config.get("chat_template")
    if isinstance(value, list):
        value = next((t.get("template") for t in value if t.get("name") == "default"), None)
    return value if isinstance(value, str) else None


def _pooling(config: dict[str, Any]) -> PoolingType | None:
    chosen = [pooling for key, pooling in _POOLING.items() if config.get(key)]
    if config and len(chosen) != 1:
        on = [k for k, v in config.items() if k.startswith("pooling_mode") and v]
        raise ModelError(f"1_Pooling/config.json pools by {on}; supported is one of {list(_POOLING)}")
    return chosen[0] if chosen else None
