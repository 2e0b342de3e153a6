"""What transformers makes of the folder that a file was converted from: token ids, logits, embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.quantize.convert.convert import convert, open_folder
from tests.quantize.llama_check import embeddings, opened, tokens

IDS = [17, 3, 250, 600, 601, 42, 42, 5, 99, 301] * 12  # longer than the tests' windows and stretched rotations


def converted(folder: Path, tmp_path: Path, name: str = "tiny") -> GgufInfo:
    target = tmp_path / "out.gguf"
    convert(open_folder(folder), target, name, lambda done: None)
    return inspect(target)


def reference(folder: Path, ids: list[int]) -> NDArray[np.float32]:
    # Eager attention: the others leave out what Gemma 2 does to its scores.
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        return np.asarray(model(torch.tensor([ids])).logits[0].numpy(), dtype=np.float32)


def fast(folder: Path) -> Any:
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))


def check_tokens(path: Path, expected: Any, texts: list[str]) -> None:
    with opened(path, vocab_only=True) as llama:
        for text in texts:
            assert tokens(llama, text, bos=True) == expected(text)["input_ids"], text


def check_embeddings(folder: Path, path: Path, texts: list[str]) -> None:
    """Means over all tokens, as the tests' models pool."""
    tokenizer, model = fast(folder), transformers.AutoModel.from_pretrained(folder).eval()
    for text, ours in zip(texts, embeddings(path, texts), strict=True):
        with torch.no_grad():
            hidden = model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0]
        expected = hidden.mean(dim=0).numpy()
        cosine = ours @ expected / np.linalg.norm(ours) / np.linalg.norm(expected)
        assert cosine > 0.9995, text


def scores(folder: Path, query: str, documents: tuple[str, ...]) -> list[float]:
    """What a cross-encoder makes of each pair."""
    tokenizer = fast(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        pairs = (tokenizer(query, document)["input_ids"] for document in documents)
        return [float(model(torch.tensor([ids])).logits[0, 0]) for ids in pairs]
