"""Labels, and the files they come in."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.errors import NotFound, UsageError
from foreshore.quality import Label, held_out
from foreshore.quality.label_files import read_labels
from foreshore.quality.labels import of_preference, split


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@given(st.text("ab C\t", min_size=1, max_size=20))
def test_the_same_words_are_held_out_together(text: str) -> None:
    assert held_out(text, 0.5) == held_out(f"  {text.upper()}\n", 0.5)


def test_about_the_share_asked_for_is_held_out() -> None:
    labels = [Label(f"prompt {i}", "a", True) for i in range(4000)]
    learnt, held = split(labels, 0.1)
    assert len(learnt) + len(held) == 4000
    assert 330 < len(held) < 470
    assert not split(labels, 0.0)[1]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ((" ", "a", True), "prompt"),
        ((3, "a", True), "prompt"),
        (("x", "", True), "target"),
        (("x", "y" * 300, True), "target"),
        (("x", "a", 1), "correct"),
        (("x", "a", True, 0.0), "weight"),
        (("x", "a", True, float("nan")), "weight"),
        (("x", "a", True, float("inf")), "weight"),
        (("x", "a", True, True), "weight"),
        (("x", "a", True, 1.0, "no"), "influenced"),
        (("x", "a", True, 1.0, False, 7), "answer"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(values: tuple[object, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Label(*values)  # type: ignore[arg-type]


def test_a_comparison_has_a_winner_and_a_loser() -> None:
    assert of_preference("x", "a", "b", 2.0) == [Label("x", "a", True, 2.0), Label("x", "b", False, 2.0)]
    with pytest.raises(UsageError, match="itself"):
        of_preference("x", "a", "a")


def test_json_lines_of_every_form_are_read(tmp_path: Path) -> None:
    path = written(
        tmp_path / "labels.jsonl",
        {"prompt": "p", "target": "a", "correct": True, "weight": 2, "influenced": True, "answer": "so"},
        "",
        {"prompt": "q", "winner": "a", "loser": "b"},
        {"prompt": "r", "chosen": "b", "rejected": "a"},
        {"prompt": "s", "weak_correct": False, "strong_correct": True, "weak_response": "hm"},
    )
    found = read_labels(path, {"weak": "card"})
    assert not found.bad
    assert found.labels == [
        Label("p", "a", True, 2, True, "so"),
        Label("q", "a", True), Label("q", "b", False),
        Label("r", "b", True), Label("r", "a", False),
        Label("s", "card", False, answer="hm"), Label("s", "strong", True, answer="hm"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["labels.csv", "labels.csv.gz"])
def test_csv_is_read(tmp_path: Path, name: str) -> None:
    text = 'prompt,weak_correct,strong_correct,subject\n"two\nlines",True,0,x\nq,no,YES,y\n'
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert read_labels(path).labels == [
        Label("two\nlines", "weak", True), Label("two\nlines", "strong", False),
        Label("q", "weak", False), Label("q", "strong", True),
    ]  # fmt: skip


def test_bad_lines_are_named_and_nothing_of_them_is_kept(tmp_path: Path) -> None:
    bad = ["{", '"text"', {"target": "a"}, {"prompt": "p"}, {"prompt": "p", "target": "a", "correct": "maybe"},
           {"prompt": "", "target": "a", "correct": True}, {"prompt": "p", "winner": "a", "loser": "a"},
           {"prompt": "p", "target": "a", "correct": True, "weight": "heavy"}, "[" * 5000]  # fmt: skip
    path = written(tmp_path / "labels.jsonl", {"prompt": "p", "target": "a", "correct": True}, *bad)
    found = read_labels(path)
    assert [line.line for line in found.bad] == list(range(2, len(bad) + 2))
    assert len(found.labels) == 1
    assert str(found.bad[0]).startswith(f"{path}, line 2: this is not JSON")
    assert "'maybe'" in found.bad[4].why


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"none\.jsonl"):
        read_labels(tmp_path / "none.jsonl")
    for name, content, says in (
        ("empty.jsonl", b"", "is empty"),
        ("labels.txt", b"x", "neither"),
        ("labels.csv.gz", b"no gzip", "cannot be read"),
        ("cut.csv.gz", gzip.compress(b"prompt,a_correct\n" * 100)[:30], "cannot be read"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UsageError, match=says):
            read_labels(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_labels(_folder(tmp_path / "folder.jsonl"))


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
