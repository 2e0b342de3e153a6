"""Hashes of pieces of text, and what is counted in prompts and answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.quality.answer_counts import ANSWER_COUNTS, answer_counts
from foreshore.quality.arithmetic import numbers, sums
from foreshore.quality.counts import COUNTS, counts
from foreshore.quality.features import LETTER_BITS, WORD_BITS, blocks, features
from foreshore.quality.hashing import bucket, grams, hashed, pairs, word_hash

LETTERS = st.text("abcAB \n1,é", max_size=40)


def counted(text: str) -> dict[str, float]:
    read = hashed(text)
    return dict(zip(COUNTS, counts(text, read, len(set(read.words.tolist()))).tolist(), strict=True))


def judged(prompt: str, answer: str) -> dict[str, float]:
    return dict(zip(ANSWER_COUNTS, answer_counts(prompt, answer).tolist(), strict=True))


@given(LETTERS, st.integers(1, 5))
def test_pieces_have_one_hash_if_they_are_the_same_text(text: str, size: int) -> None:
    """ASCII in lower case, digits alike; wherever the piece stands."""
    raw = text.encode().translate(bytes.maketrans(b"AB1", b"ab0"))
    pieces = [raw[i : i + size] for i in range(len(raw) - size + 1)]
    found = grams(hashed(text), size).tolist()
    assert len(found) == len(pieces)
    assert len(set(found)) == len(set(pieces))
    assert len(set(zip(found, pieces, strict=True))) == len(set(pieces))


@given(LETTERS)
def test_words_are_found_with_their_hashes(text: str) -> None:
    words = "".join(c if c.isalnum() else " " for c in text).split()
    assert hashed(text).words.tolist() == [word_hash(word) for word in words]


def test_pairs_know_their_order() -> None:
    one, other = (pairs(hashed(text).words) for text in ("not good", "good not"))
    assert one.tolist() != other.tolist()


def test_buckets_are_filled_evenly() -> None:
    spelt = (f"{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i // 676)}" for i in range(8000))
    words = hashed(" ".join(spelt)).words
    filled = np.bincount(bucket(words, 6), minlength=64)
    assert filled.sum() == 8000
    assert filled.min() > 80
    assert filled.max() < 180


def test_a_prompt_has_its_parts() -> None:
    found = features("How many apples are left?\nA. 3\nB. 4\n")
    places, values = found.words
    assert len(places) == 16  # nine words, of which 3 and 4 are alike, and eight pairs
    assert places.max() < 1 << WORD_BITS
    assert float(values @ values) == pytest.approx(1, abs=1e-5)
    assert len(found.single[0]) == 8
    assert len(found.counts) + len(found.shares) == sum(blocks(False).values())
    assert len(found.shares) == 1 << LETTER_BITS
    assert float(found.shares @ found.shares) == pytest.approx(1, abs=1e-5)
    with_answer = features("How many?", "Three.")
    assert len(with_answer.counts) + len(with_answer.shares) == sum(blocks(True).values())


def test_a_prompt_is_counted() -> None:
    found = counted("Ann has 12 apples, each costs $1.50. How many dollars?\nA. 3\nB. 1200")
    assert found["options"] == pytest.approx(np.log1p(2))
    assert found["decimals"] == pytest.approx(np.log1p(1))
    assert found["money"] == pytest.approx(np.log1p(1))
    assert found["longest_number"] == pytest.approx(np.log1p(4))
    assert found["numbers"] == pytest.approx(np.log1p(5))
    assert found["question"] == pytest.approx(np.log1p(1))
    assert found["price"] == pytest.approx(np.log1p(2))
    assert found["cyrillic"] == 0 < counted("Сколько будет дважды два?")["cyrillic"]
    assert counted("")["length"] == 0


@pytest.mark.parametrize(
    ("text", "said", "worth"),
    [
        ("3 x 60 = 180", 180, 180),
        ("<<3*60=181>>", 181, 180),
        ("(2 + 4) / 4 = 1.5", 1.5, 1.5),
        ("1,200 - 200 = $1,000", 1000, 1000),
        ("50% * 30 = 15", 15, 15),
        ("2^10 = 1024", 1024, 1024),
        ("007 + 1 = 8", 8, 8),
        ("1 / 0 = 3", 3, None),
        ("9^9^9^9 = 1", 1, None),
        ("5 + + = 1", 1, None),
    ],
)
def test_a_sum_is_read(text: str, said: float, worth: float | None) -> None:
    (found,) = sums(text)
    assert found.said == said
    assert found.worth == (None if worth is None else pytest.approx(worth))
    assert found.right == (worth == said)
    assert found.wrong == (worth not in (None, said))


def test_what_is_no_sum_is_none() -> None:
    assert not list(sums("x = 3, so that 1 + 2 = 2 + 1"))
    assert len(list(sums("1 + 1 = 2. " * 500))) == 64


def test_numbers_are_read() -> None:
    assert numbers("1,200 of 3.5, .5 and 9") == [1200, 3.5, 0.5, 9]
    assert numbers("9" * 400) == []


def test_an_answer_is_counted() -> None:
    right = judged("Ann has 3 bags of 12.", "3 * 12 = <<3*12=36>>36 apples.\n#### 36")
    wrong = judged("Ann has 3 bags of 12.", "Perhaps 3 * 12 = <<3*12=38>>38. So 7 is the an")
    assert right["right_sums"] > 0 == right["wrong_sums"]
    assert right["final_is_last_sum"] == right["final_mark"] == right["given_share_used"] == 1
    assert wrong["wrong_share"] > 0 == wrong["final_mark"]
    assert wrong["doubts"] > 0
    assert wrong["numbers_from_nowhere"] > 0
    assert judged("x", "")["empty"] == 1


@given(st.text("0123456789.,+-*/=x%^$()<># \nabc", max_size=200), st.text(max_size=50))
def test_any_answer_can_be_counted(answer: str, prompt: str) -> None:
    found = answer_counts(prompt, answer)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("text", ["1", "1+", "(", "= ", "#", "\n", "1 ", "1+1=", "so ", "####1 "])
def test_no_text_takes_long(text: str) -> None:
    """Every repetition in a pattern is bounded; were one not, this would take minutes."""
    whole = text * 20_000
    assert np.isfinite(features(whole, whole).counts).all()
