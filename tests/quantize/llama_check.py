"""What llama.cpp makes of a converted file: token ids, logits, embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import Llama
from numpy.typing import NDArray


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[Llama]:
    threads = {"n_threads": 1, "n_threads_batch": 1}  # these models are too small to be shared out
    llama = Llama(str(path), n_ctx=512, n_batch=512, verbose=False, use_extra_bufts=False, **threads, **options)
    try:
        yield llama
    finally:
        llama.close()


def tokens(llama: Llama, text: str, *, special: bool = True, bos: bool = False) -> list[int]:
    return list(llama.tokenize(text.encode(), add_bos=bos, special=special))


def logits(path: Path, ids: list[int]) -> NDArray[np.float32]:
    with opened(path, logits_all=True) as llama:
        llama.eval(ids)
        return np.array(llama.scores[: len(ids)], dtype=np.float32)


def embeddings(path: Path, texts: Sequence[str]) -> list[NDArray[np.float32]]:
    with opened(path, embedding=True) as llama:
        return [np.array(llama.embed(text), dtype=np.float32) for text in texts]


def embedding(path: Path, text: str) -> NDArray[np.float32]:
    return embeddings(path, [text])[0]
