"""Cheap facts of an answer: how it ends, whether its sums are right and its numbers come from somewhere, doubts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foreshore.quality.arithmetic import Sum, numbers, sums

__all__ = ["ANSWER_COUNTS", "answer_counts"]

ANSWER_COUNTS = (
    "characters", "per_prompt", "words", "lines", "empty", "different_words", "repeated_lines", "final_mark", "ended",
    "open_bracket", "sums", "right_sums", "wrong_sums", "wrong_share", "uncomputed_sums", "numbers",
    "given_numbers_used", "given_share_used", "numbers_from_nowhere", "final_is_last_sum", "final_is_given",
    "final_whole", "final_negative", "final_magnitude", "final_beyond_given", "final_last", "has_final", "doubts",
    "refusals", "decimals", "longest_sum", "fractions",
)  # fmt: skip

_FINAL = re.compile(
    r"(?:####|\\boxed\{|(?:answer|result)(?: is|:)|therefore,?|thus,?)\s*[^\n\d]{0,40}?(-?[$\d][\d,.]*)", re.I
)
_ENDED = re.compile(r"(?:[.!?)\]}`\"']|[=#:]\s*\$?-?[\d,.]+[^\n]{0,12}|\d)\s*$")
_DOUBTS = re.compile(
    r"\b(?:however|maybe|perhaps|assum\w+|approximately|about|unclear|might|seems?|not sure|wait|mistake"
    r"|correct(?:ed|ion)|estimate\w*|round\w*|unknown|but)\b",
    re.I,
)  # fmt: skip
_REFUSALS = re.compile(
    r"\b(?:sorry|cannot|can't|unable|impossible|not enough|not possible|as an ai|don't know)\b", re.I
)


def answer_counts(prompt: str, answer: str) -> NDArray[np.float64]:
    """(ANSWER_COUNTS,) of what a target answered to `prompt`."""
    written = list(sums(answer))
    given, said = numbers(prompt)[:200], numbers(answer)[:400]
    results = {_key(s.said) for s in written}
    known = {_key(n) for n in given}
    final = _final(answer, said)
    words = answer.split()
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    used = known & {_key(n) for n in said}
    return np.array([
        math.log1p(len(answer)),
        math.log1p(len(answer)) - math.log1p(len(prompt)),
        math.log1p(len(words)),
        math.log1p(len(lines)),
        not words,
        len({w.lower() for w in words}) / max(1, len(words)),
        len(lines) - len(set(lines)),
        _FINAL.search(answer) is not None,
        _ENDED.search(answer[-80:]) is not None,
        answer.count("(") != answer.count(")") or answer.count("<<") != answer.count(">>"),
        math.log1p(len(written)),
        math.log1p(sum(s.right for s in written)),
        math.log1p(sum(s.wrong for s in written)),
        sum(s.wrong for s in written) / max(1, len(written)),
        sum(s.worth is None for s in written),
        math.log1p(len(said)),
        len(used),
        len(used) / max(1, len(known)),
        math.log1p(sum(_key(n) not in known | results for n in said)),
        *_of_final(final, written, given),
        answer.rstrip()[-1:].isdigit(),
        final is not None,
        math.log1p(len(_DOUBTS.findall(answer))),
        math.log1p(len(_REFUSALS.findall(answer))),
        sum(n != int(n) for n in said if n < 1e15) / max(1, len(said)),
        math.log1p(max((abs(s.said) for s in written), default=0.0)),
        math.log1p(answer.count("/")),
    ], np.float64)  # fmt: skip


def _of_final(final: float | None, written: Sequence[Sum], given: Sequence[float]) -> tuple[float, ...]:
    if final is None:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    return (
        float(bool(written) and _key(written[-1].said) == _key(final)),
        float(_key(final) in {_key(n) for n in given}),
        float(final == round(final)),
        float(final < 0),
        min(math.log1p(abs(final)), 40.0),
        float(abs(final) > max((abs(n) for n in given), default=0.0)),
    )


def _final(answer: str, said: Sequence[float]) -> float | None:
    """The number the answer ends on: what follows the last mark of a result, else the last number."""
    marked = [m.group(1) for m in _FINAL.finditer(answer)]
    found = numbers(marked[-1]) if marked else []
    if found:
        return -found[0] if marked[-1].startswith("-") else found[0]
    return said[-1] if said else None


def _key(number: float) -> str:
    """The same for numbers that print alike: 0.1 + 0.2 is 0.3."""
    return f"{number:.6g}"
