"""A Hugging Face folder as one GGUF file that keeps every weight's own precision.

Matrices stay in the type they have (bf16, f16 or f32), so nothing is lost before quantization; vectors and
small tables, which llama.cpp wants so, become f32. Weights are copied piece by piece from the mapped file, and
a value that is not finite is found on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, LlamaFileType
from numpy.typing import NDArray

from foreshore.disk import disk_errors, require_space
from foreshore.errors import ModelError
from foreshore.quantize.convert.family import Family
from foreshore.quantize.convert.hf_config import Config, heads
from foreshore.quantize.convert.hf_folder import HfFolder, open_folder, used_files
from foreshore.quantize.convert.vocab import Vocab
from foreshore.quantize.convert.weights import unbounded

__all__ = ["HfFolder", "convert", "interleave_rows", "open_folder", "used_files"]

PIECE = 1 << 20  # bytes copied at a time: they are checked while they are in the processor's cache
REPORT = 16 << 20  # bytes between two reports of progress
TYPES = {"F32": GGMLQuantizationType.F32, "F16": GGMLQuantizationType.F16, "BF16": GGMLQuantizationType.BF16}
_FILE_TYPES = {"f32": LlamaFileType.ALL_F32, "f16": LlamaFileType.MOSTLY_F16, "bf16": LlamaFileType.MOSTLY_BF16}


def convert(source: HfFolder, target: Path, name: str, progress: Callable[[int], None]) -> None:
    """Write `target`. `progress` is told the bytes written so far.

    Raises `ModelError` that names a tensor with NaN or infinite values, and `SetupError` if the disk is full.
    """
    require_space(target.parent, source.nbytes)
    with disk_errors(target.parent, source.nbytes):
        writer = GGUFWriter(target, MODEL_ARCH_NAMES[source.family.arch])
        try:
            _header(writer, source, name)
            _tensors(writer, source, progress)
        finally:
            writer.close()


def interleave_rows(data: NDArray[Any], name: str, family: Family, config: Config) -> NDArray[Any]:
    """The rows of a query or key matrix as llama.cpp wants them: of each head neighbouring pairs, not two halves."""
    if not family.permute_qk or not (".attn_q." in name or ".attn_k." in name):
        return data
    n_heads, n_kv, _ = heads(config)
    halves = data.reshape(n_heads if ".attn_q." in name else n_kv, 2, -1, *data.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(data.shape)


def _header(writer: GGUFWriter, source: HfFolder, name: str) -> None:
    writer.add_type("model")
    writer.add_name(source.vocab.heard_as(name))
    writer.add_file_type(_FILE_TYPES[source.precision])
    writer.add_quantization_version(2)
    source.family.header(writer, source.config)
    writer.add_vocab_size(len(source.vocab.tokens))
    if source.pooling is not None:
        writer.add_pooling_type(source.pooling)
    _sampling(writer, source.generation)
    _vocabulary(writer, source.vocab)
    if source.family.ranks:
        writer.add_bool("tokenizer.ggml.add_sep_token", True)  # a pair is parted by an end and a separator
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
    if vocab.charsmap:
        writer.add_precompiled_charsmap(vocab.charsmap)
    for kind, token in vocab.special.items():
        key = {"unk": "unknown", "sep": "seperator", "pad": "padding"}.get(kind, kind)  # GGUF's own spelling
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", token)
    for flag, value in vocab.flags.items():
        writer.add_bool(f"tokenizer.ggml.{flag}", value)


def _tensors(writer: GGUFWriter, source: HfFolder, progress: Callable[[int], None]) -> None:
    computed = source.family.computed(source.config)
    for name, factors in computed.items():
        writer.add_tensor_info(name, factors.shape, factors.dtype, factors.nbytes)
    for name, weight in source.weights.items():
        kind, size = TYPES[source.written_type(name)], source.written_bytes(name)
        writer.add_tensor_info(name, weight.shape, np.dtype(np.float32), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    file, done = writer.fout[0], 0
    writer.write_padding(file, file.tell())
    for name, factors in computed.items():
        _copy(file, factors, name, lambda n: None)
        writer.write_padding(file, factors.nbytes)
    for name, weight in source.weights.items():
        data = _data(name, source)
        _copy(file, data, weight.name, lambda n, done=done: progress(done + n))  # type: ignore[misc]
        writer.write_padding(file, data.nbytes)
        done += data.nbytes
    file.flush()


def _copy(file: BinaryIO, data: NDArray[Any], name: str, progress: Callable[[int], None]) -> None:
    flat = np.ascontiguousarray(data).reshape(-1)
    step = PIECE // flat.itemsize
    for start in range(0, len(flat), step):
        piece = flat[start : start + step]
        if unbounded(piece):
            raise ModelError(
                f"tensor {name!r} has values that are NaN or infinite, among the elements from {start} on",
                hint="fetch the model again; if it was trained to such values, it cannot be repaired here",
            )
        file.write(piece.view(np.uint8).data)
        if start * flat.itemsize % REPORT == 0 or start + step >= len(flat):
            progress(min(start + step, len(flat)) * flat.itemsize)


def _data(name: str, source: HfFolder) -> NDArray[Any]:
    weight, family = source.weights[name], source.family
    data: NDArray[Any] = weight.float32() if source.written_type(name) != weight.dtype else weight.raw()
    if family.norm_shift and name.endswith("norm.weight"):
        return np.asarray(data + np.float32(family.norm_shift), dtype=np.float32)
    return interleave_rows(data, name, family, source.config)
