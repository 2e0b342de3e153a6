"""SentencePiece tokenizers, from tokenizer.json and from tokenizer.model, cut text as in transformers."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.errors import ModelError
from foreshore.quantize.convert.convert import open_folder
from foreshore.quantize.convert.pieces import read_pieces
from tests.quantize.llama_check import opened, tokens
from tests.quantize.tiny_models import decoder
from tests.quantize.tiny_tokenizers import HOSTILE, gemma_pieces, pieces
from tests.quantize.transformers_check import check_tokens, converted, fast

SPACES = [
    "    four",
    "a" + " " * 3 + "b",
    " " * 20,
    "\n" * 7 + "x",
    "\n \n  \n",
    "a▁literal▁sign",
    "<table> </table>",
    "",
]
TURNS = ["<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n", "<start_of_turn>", "<eos>a"]


def gemma(folder: Path) -> Path:
    return decoder(folder, "Llama", tokens="gemma")


def test_gemma_tokens_equal_those_of_transformers(tmp_path: Path) -> None:
    folder = gemma(tmp_path / "hf")
    check_tokens(converted(folder, tmp_path).path, fast(folder), HOSTILE + SPACES + TURNS)


def test_gemma_pieces_without_a_tokenizer_json_are_read(tmp_path: Path) -> None:
    folder = gemma(tmp_path / "hf")
    expected = fast(folder)
    (folder / "tokenizer.json").unlink()
    check_tokens(converted(folder, tmp_path).path, expected, HOSTILE + SPACES + TURNS)


@pytest.mark.parametrize("from_pieces", [False, True])
def test_runs_of_spaces_come_back_as_spaces(from_pieces: bool, tmp_path: Path) -> None:
    folder = gemma(tmp_path / "hf")
    if from_pieces:
        (folder / "tokenizer.json").unlink()
    text = "a     b\n\n   c"
    with opened(converted(folder, tmp_path).path, vocab_only=True) as llama:
        assert llama.detokenize(tokens(llama, text)).decode() == text


@pytest.mark.parametrize("name", ["anything", "my-phi-3-mini"])
def test_phi3_tokens_swallow_white_space_whatever_the_model_is_called(name: str, tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Llama", tokens="phi3")
    assert not any("spaces beside" in note for note in open_folder(folder).notes)
    texts = ["<|user|>\nhi there<|end|>\n<|user|>  \n x", "<s> a</s>  b", "a <|endoftext|> b", "plain  text"]
    check_tokens(converted(folder, tmp_path, name).path, fast(folder), texts)


def test_another_model_may_be_called_phi3(tmp_path: Path) -> None:
    """llama.cpp would fail to load it: it looks for Phi-3's tokens by the name."""
    folder = decoder(tmp_path / "hf", "Llama")
    info = converted(folder, tmp_path, "Phi-3-like")
    assert info.name == "phi 3-like"
    with opened(info.path, vocab_only=True) as llama:
        assert tokens(llama, "a")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("unigram", {"vocab_size": 260}),
        ("bpe", {"vocab_size": 300}),  # no bytes to fall back to
        ("bpe", {"vocab_size": 520, "byte_fallback": True, "normalization_rule_name": "nmt_nfkc"}),
    ],
)
def test_pieces_that_llama_cpp_could_not_follow_are_refused(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Llama")
    (folder / "tokenizer.json").unlink()
    pieces(folder / "tokenizer.model", kind, **options)
    with pytest.raises(ModelError, match="byte-fallback BPE"):
        open_folder(folder)


def test_more_pieces_than_embedding_rows_are_refused(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Llama", vocab_size=524)
    (folder / "tokenizer.json").unlink()
    gemma_pieces(folder / "tokenizer.model")
    (folder / "added_tokens.json").write_text(json.dumps({"<extra>": 900}))
    with pytest.raises(ModelError, match="900"):
        open_folder(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [("added_tokens.json", {"<x>": "y"}), ("tokenizer_config.json", {"added_tokens_decoder": {"1": 2}})],
)
def test_damaged_files_beside_the_pieces_are_named(file: str, content: dict[str, Any], tmp_path: Path) -> None:
    folder = gemma(tmp_path / "hf")
    (folder / "tokenizer.json").unlink()
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(ModelError, match="damaged"):
        open_folder(folder)


@pytest.mark.parametrize("content", [b"", b"\x0a", b"\x0a\xff\xff\x01ab", b"{}", b"\x80" * 20, b"\x0a\x03\x0a\x01\xff"])
def test_damaged_pieces_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="SentencePiece"):
        read_pieces(path)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.model"
        path.write_bytes(content)
        with suppress(ModelError):
            assert read_pieces(path).pieces
