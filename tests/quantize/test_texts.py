"""Calibration and evaluation texts: what ships, what the starters' chats are, and what a user's file may hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.errors import NotFound, UsageError
from foreshore.quantize.texts import Corpus, calibration_text, check_disjoint, evaluation_text, read_corpus
from foreshore.starter import NAMES, chat
from foreshore.starter.tasks import HELD_OUT, TASKS, example, levels

KINDS = [(task, level) for task in TASKS for level in levels(task)]


def test_the_shipped_texts_are_disjoint_and_varied() -> None:
    calibration, evaluation = calibration_text(), evaluation_text("some-model")
    check_disjoint(calibration, evaluation)
    for corpus in (calibration, evaluation):
        assert not corpus.special
        assert 25_000 < len(corpus.text.encode()) < 40_000
        assert all(200 <= len(document) <= 1500 for document in corpus.documents)
    sentences = [set(c.text.replace("\n", " ").split(". ")) for c in (calibration, evaluation)]
    assert not {s for s in sentences[0] & sentences[1] if len(s) > 12}


@pytest.mark.parametrize("name", NAMES)
def test_a_starter_gets_chats_as_it_was_trained_on(name: str) -> None:
    corpus = evaluation_text(name, documents=90)
    assert corpus.special
    assert len(set(corpus.documents)) == 90
    assert all(d.startswith(chat.START) and d.endswith(chat.END) for d in corpus.documents)
    assert any("<think>" in d for d in corpus.documents) == (name == "starter-l")
    assert corpus.documents == evaluation_text(name).documents[:90], "the same every time, and a beginning of the whole"
    assert len(evaluation_text(name).documents) >= 300


def test_no_calibration_chat_is_a_held_out_one() -> None:
    """The two sides are told apart by a hash of the prompt, so that even small tasks share none."""
    calibration, evaluation = calibration_text("starter-s"), evaluation_text("starter-s")
    check_disjoint(calibration, evaluation)
    asked = {d.rpartition(f"{chat.START}assistant")[0] for d in calibration.documents}
    accuracy = (example(task, level, HELD_OUT + n) for task, level in KINDS for n in range(20))
    held_out = {chat.prompt(e.messages, e.tools).rpartition(f"{chat.START}assistant")[0] for e in accuracy}
    assert not asked & held_out
    assert not asked & {d.rpartition(f"{chat.START}assistant")[0] for d in evaluation.documents}


def test_the_hash_is_of_the_documents_not_of_the_file(tmp_path: Path) -> None:
    lines, blocks = tmp_path / "a.jsonl", tmp_path / "a.txt"
    lines.write_text('{"text": "First."}\n\n{"text": "Second.", "kind": "x"}\n', encoding="utf-8")
    blocks.write_text("First.", encoding="utf-8")
    corpus = read_corpus(lines)
    assert corpus.documents == ("First.", "Second.")
    assert corpus.sha256 == Corpus.of(["First.", "Second."]).sha256
    different = [read_corpus(blocks), read_corpus(lines, special=True), Corpus.of(["First.Second."])]
    assert len({corpus.sha256, *(c.sha256 for c in different)}) == 4


def test_paragraphs_are_gathered_into_documents(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n \r\n\r\n".join(f"{n} " + "word " * 60 for n in range(20)).encode())
    corpus = read_corpus(path)
    assert [d.count("\n\n") for d in corpus.documents] == [3] * 5
    assert corpus.documents[0].startswith("0 word")
    path.write_text("endless " * 5000, encoding="utf-8")
    assert all(900 < len(d) <= 4000 for d in read_corpus(path).documents[:-1])
    path.write_text("x" * 10_000, encoding="utf-8")
    assert [len(d) for d in read_corpus(path).documents] == [4000, 4000, 2000]


@given(st.text(alphabet="ab \n\t\r\u2028é漢", max_size=300).filter(lambda text: text.strip()))
def test_no_word_of_a_file_is_lost(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_bytes(text.encode())
    assert read_corpus(path).text.split() == text.split()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", b" \n\n\t ", "empty"),
        ("a.txt", b"caf\xe9", "not UTF-8 text at byte 3"),
        ("a.jsonl", b"", "empty"),
        ("a.jsonl", b'{"text": "  "}\n', "empty"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": ', "line 2 is not JSON"),
        ("a.jsonl", b'{"prompt": "fine"}', "line 1 has no string 'text'"),
        ("a.jsonl", b'{"text": 3}', "line 1 has no string 'text'"),
        ("a.jsonl", b'["text"]', "line 1 has no string 'text'"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("a.jsonl", json.dumps({"text": "\ud800"}).encode(), "not Unicode"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said) as raised:
        read_corpus(path)
    assert name in raised.value.message


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"missing\.txt"):
        read_corpus(tmp_path / "missing.txt")
    with pytest.raises(UsageError, match="cannot be read"):
        read_corpus(tmp_path)
    huge = tmp_path / "huge.txt"
    with huge.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UsageError, match="1099511627776 bytes"):
        read_corpus(huge)
    with pytest.raises(UsageError, match="0 documents"):
        calibration_text(documents=0)


def test_measuring_on_what_was_calibrated_on_is_refused() -> None:
    mine = Corpus.of(["One.", "Two."])
    with pytest.raises(UsageError, match=r"1 of 2 documents .* 'Two\.'"):
        check_disjoint(mine, Corpus.of(["Two.", "Three."]))
