"""Vocabularies of any size without a model behind them, and llama.cpp's own sampling to compare ours with."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import gguf
import llama_cpp.llama_cpp as native
import numpy as np

from foreshore.edge.sampling.candidates import Candidates, Logits
from foreshore.edge.sampling.chain import Chain, Stage, stages
from foreshore.edge.vocab import Vocab
from foreshore.types import Sampling

NORMAL, CONTROL = 1, 3


def letters() -> list[str]:
    """GPT-2's printable letter for each byte: itself where it prints, else the next free from 256."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(b) if b in shown else chr(next(spare)) for b in range(256)]


@contextmanager
def bare_vocab(folder: Path, size: int, *, controls: Sequence[str] = ("<|end|>",)) -> Iterator[Vocab]:
    """All bytes, made-up words of two to five letters, and `controls`, of which the first ends a text."""
    rng = np.random.default_rng(size)
    alphabet = letters()
    words = dict.fromkeys(alphabet)
    while len(words) < size - len(controls):
        words["".join(alphabet[33 + i] for i in rng.integers(0, 94, rng.integers(2, 6)))] = None
    tokens = [*words, *controls]
    path = folder / f"{size}.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([NORMAL] * len(words) + [CONTROL] * len(controls))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(tokens.index(controls[0]))
    writer.add_add_bos_token(False)
    for add in (writer.add_context_length, writer.add_embedding_length, writer.add_block_count):
        add(8)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    params = native.llama_model_default_params()
    params.vocab_only = True
    model = native.llama_model_load_from_file(str(path).encode(), params)
    assert model
    try:
        yield Vocab(model)
    finally:
        native.llama_model_free(model)


class Plain:
    """llama.cpp's sampling as it stands: every token of the vocabulary through one chain."""

    def __init__(self, sampling: Sampling, vocab: Vocab, history: Sequence[int] = ()) -> None:
        biases = (native.llama_logit_bias * len(sampling.logit_bias))(*sampling.logit_bias.items())
        bias = Stage(name="bias", make=lambda: native.llama_sampler_init_logit_bias(vocab.size, len(biases), biases))
        self._chain = Chain([bias, *stages(sampling, vocab)])
        self._candidates = Candidates()
        for token in history:
            self._chain.accept(token)

    def draw(self, row: Logits) -> int:
        self._chain.apply(self._candidates.fill(np.arange(len(row)), row))
        token = self._candidates.selected()
        self._chain.accept(token)
        return token

    def close(self) -> None:
        self._chain.close()


def quiet() -> None:
    native.llama_log_set(_SILENCE, ctypes.c_void_p())


_SILENCE = native.llama_log_callback(lambda level, text, data: None)
