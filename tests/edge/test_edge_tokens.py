"""Tokens without a model's work: text to ids, ids to text, and how many tokens messages are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.backend import Backend, collect
from foreshore.edge import EngineOptions, LocalBackend
from foreshore.edge.engine import Engine
from foreshore.edge.loader import load
from foreshore.edge.vocab import Vocab
from foreshore.errors import BadRequest
from foreshore.types import Chunk, Request, Sampling
from tests.tiny_model import TEMPLATE, write_decoder

THINKS = "{% if enable_thinking is defined %}{{ 'on' if enable_thinking else 'off' }} {% endif %}" + TEMPLATE
HI = ({"role": "user", "content": "hello"},)
END = "<|im_end|>"


def ask(backend: Backend, request: Request) -> Chunk:
    async def run() -> Chunk:
        (chunk,) = [c async for c in backend.stream(request)]
        await backend.close()
        return chunk

    return asyncio.run(run())


@pytest.fixture
def backend(tiny: Path) -> LocalBackend:
    return LocalBackend(tiny, options=EngineOptions(threads=1))


@pytest.fixture(scope="module")
def vocab(tiny: Path) -> Iterator[Vocab]:
    engine = Engine(tiny, EngineOptions(threads=1))
    yield engine.vocab
    engine.close()


def test_text_to_tokens_in_one_chunk(backend: LocalBackend, vocab: Vocab) -> None:
    chunk = ask(backend, Request(task="tokenize", prompt=f"hello{END}"))
    assert chunk.tokens == tuple(vocab.tokenize(f"hello{END}", special=True))
    assert chunk.finish_reason == "stop"


def test_special_tokens_are_read_unless_told_otherwise(backend: LocalBackend, vocab: Vocab) -> None:
    plain = ask(backend, Request(task="tokenize", prompt=END, extra={"parse_special": False}))
    assert len(plain.tokens) == len(END)
    assert len(vocab.tokenize(END, special=True)) == 1


def test_marks_at_the_ends_are_added_on_demand(tiny_encoder: Path) -> None:
    def tokens(**extra: bool) -> tuple[int, ...]:
        backend = LocalBackend(tiny_encoder, options=EngineOptions(threads=1))
        return ask(backend, Request(task="tokenize", prompt="hello", extra=extra)).tokens

    bare = tokens()
    assert tokens(add_special=True)[: len(bare) + 1] == (2, *bare)


def test_tokens_to_text(backend: LocalBackend, vocab: Vocab) -> None:
    tokens = tuple(vocab.tokenize(f"hello wörld ✓{END}", special=True))
    assert ask(backend, Request(task="detokenize", prompt=tokens)).text == f"hello wörld ✓{END}"


@settings(deadline=None, max_examples=60)
@given(text=st.text(max_size=60))
def test_there_and_back_again(tiny: Path, text: str) -> None:
    prepare = _prepare(tiny)
    there = prepare(Request(task="tokenize", prompt=text, extra={"parse_special": False}), 0.0)
    assert isinstance(there, Chunk)
    back = prepare(Request(task="detokenize", prompt=there.tokens), 0.0)
    assert isinstance(back, Chunk)
    assert back.text == text


_PREPARERS: dict[Path, Any] = {}


def _prepare(path: Path) -> Any:
    """One loaded model for all of a property's examples."""
    if path not in _PREPARERS:
        _PREPARERS[path] = load(path, EngineOptions(threads=1)).prepare
    return _PREPARERS[path]


def test_messages_have_as_many_tokens_as_their_prompt(tiny: Path) -> None:
    async def run() -> tuple[int, int]:
        backend = LocalBackend(tiny, options=EngineOptions(threads=1))
        answer = await collect(backend, Request(messages=HI, sampling=Sampling(max_tokens=1)))
        (counted,) = [c async for c in backend.stream(Request(task="tokenize", messages=HI))]
        await backend.close()
        assert answer.usage is not None
        return answer.usage.prompt_tokens, len(counted.tokens)

    asked, counted = asyncio.run(run())
    assert asked == counted > 0


@pytest.mark.parametrize(
    ("extra", "begins"),
    [
        ({}, END[:2]),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "on "),
        ({"thinking": {"type": "adaptive"}}, "on "),
        ({"thinking": {"type": "disabled"}}, "off "),
        ({"thinking": {"type": "disabled"}, "chat_template_kwargs": {"enable_thinking": True}}, "on "),
        ({"chat_template_kwargs": {"enable_thinking": True}, "thinking": {"type": "disabled"}}, "on "),
    ],
)
def test_thinking_reaches_the_template(tmp_path: Path, extra: dict[str, Any], begins: str) -> None:
    model = write_decoder(tmp_path / "thinks.gguf", template=THINKS)
    prepare = load(model, EngineOptions(threads=1)).prepare
    chunk = prepare(Request(task="tokenize", messages=HI, extra=extra), 0.0)
    assert isinstance(chunk, Chunk)
    text = prepare(Request(task="detokenize", prompt=chunk.tokens), 0.0)
    assert isinstance(text, Chunk)
    assert text.text.startswith(begins)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request(task="detokenize", prompt=(10**6,)), "token 1000000"),
        (Request(task="detokenize", prompt="text"), "no list of token ids"),
        (Request(task="tokenize", prompt=(1, 2)), "no text"),
        (Request(task="tokenize", prompt="x", extra={"other": 1}), "other"),
        (Request(messages=HI, extra={"thinking": {"type": "between_tools"}}), "thinking"),
        (Request(messages=HI, extra={"thinking": True}), "thinking"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(backend: LocalBackend, request_: Request, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        ask(backend, request_)
    asyncio.run(backend.close())
