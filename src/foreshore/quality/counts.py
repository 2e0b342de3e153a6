"""Cheap facts of a text as numbers: how long, of what characters, words and numbers, with which options."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from foreshore.quality.hashing import Hashed, word_hash

__all__ = ["COUNTS", "counts"]

_CHARACTERS = {
    "upper": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "digits": "0123456789",
    "lines": "\n",
    "stops": ".",
    "asked": "?!",
    "commas": ",;",
    "operators": "+-*/=<>^|~",
    "money": "$",
    "percent": "%",
    "quotes": "\"'`",
    "brackets": "()[]{}",
    "code": "\\_:#&@",
}
_SCRIPTS = {"latin": (0xC3, 0xC9), "greek": (0xCE, 0xCF), "cyrillic": (0xD0, 0xD3), "semitic": (0xD6, 0xDF),
            "indic": (0xE0, 0xE1), "symbols": (0xE2, 0xE2), "cjk": (0xE3, 0xE9), "hangul": (0xEA, 0xED),
            "emoji": (0xF0, 0xF4)}  # fmt: skip
_WORDS = {
    "question": "what which who whom whose when where why how",
    "negation": "not no never except none nor without unless cannot neither false incorrect",
    "each": "each every per apiece both all any",
    "total": "total altogether sum combined together average mean overall",
    "rest": "remaining left rest remain remains leftover still after before then initially originally",
    "comparison": "more less fewer than extra additional most least older younger longer taller larger smaller",
    "fraction": "twice half double triple times third quarter thrice fifth halves fraction percent percentage ratio",
    "price": "dollar dollars cost costs price pay pays paid cents buy buys bought sell sells sold profit earn",
    "time": "hour hours minute minutes second seconds day days daily week weeks weekly month months year years",
    "cardinal": "one two three four five six seven eight nine ten eleven twelve dozen twenty hundred thousand pair",
    "change": "gives gave give takes took loses lost eats ate uses used adds added makes made gets got receives",
    "logic": "if then statement true suppose assume implies therefore must only either whether",
    "mathematics": "function equation integer integers prime matrix polynomial graph probability set theorem vector",
    "program": "def return class import print int void const var let public static python java code sql select",
    "task": "write summarize summarise translate explain list classify extract find calculate compute solve give",
    "person": "he she his her they their him them i you my your we",
}  # fmt: skip
_OPTION = re.compile(r"\n[ \t]{0,8}\(?[A-Ja-j1-9][.):]\s")
_DECIMAL = re.compile(rb"\.[0-9]")  # without which there are none


def _classes() -> bytes:
    """The class of each byte; 0 for letters, spaces and what continues a character."""
    found = bytearray(256)
    for number, characters in enumerate(_CHARACTERS.values(), start=1):
        for character in characters:
            found[ord(character)] = number
    for number, (first, last) in enumerate(_SCRIPTS.values(), start=1 + len(_CHARACTERS)):
        found[first : last + 1] = bytes([number]) * (last + 1 - first)
    return bytes(found)


def _lexicon() -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
    """Hashes of the words, ascending, and the group of each."""
    groups = {word_hash(word): at for at, words in enumerate(_WORDS.values()) for word in words.split()}
    return np.array(sorted(groups), np.uint64), np.array([groups[key] for key in sorted(groups)])


_CLASSES = _classes()
_KNOWN, _GROUPS = _lexicon()
_KINDS = 1 + len(_CHARACTERS) + len(_SCRIPTS)
_DIGITS, _STOPS, _ASKED = (1 + list(_CHARACTERS).index(name) for name in ("digits", "stops", "asked"))

COUNTS = (
    *_CHARACTERS, *_SCRIPTS, *_WORDS,
    "length", "words", "numbers", "longest_number", "long_numbers", "decimals", "options", "option_length", "stem",
    "last_sentence", "sentence_length", "word_length", "long_words", "capitals", "different_words", "number_share",
)  # fmt: skip

_LOGGED = _KINDS - 1 + len(_WORDS)  # where lengths begin
_SHARES = COUNTS.index("word_length")  # where what is no count begins


def counts(text: str, read: Hashed, different: int) -> NDArray[np.float64]:
    """(COUNTS,): counts and lengths as log(1 + n), shares as they are. `read` is `text`, hashed; `different` says how
    many different words it has."""
    found = np.empty(len(COUNTS))
    classes = np.frombuffer(read.raw.translate(_CLASSES), np.uint8)
    kinds = np.bincount(classes, minlength=_KINDS)
    lengths = read.ends - read.starts
    words = max(1, len(lengths))
    is_number = classes[read.starts] == _DIGITS
    numbers = lengths[is_number]
    options = [match.start() for match in _OPTION.finditer(text)]
    stem = options[0] if options else len(text)
    asked = 0
    for mark in (". ", ".\n", "? ", "! "):
        asked = max(asked, text.rfind(mark, asked, max(0, stem - 2)))
    found[: _KINDS - 1] = kinds[1:]
    found[_KINDS - 1 : _LOGGED] = np.bincount(_grouped(read), minlength=len(_WORDS))
    found[_LOGGED:_SHARES] = (
        len(text), len(lengths), len(numbers), numbers.max(initial=0), np.count_nonzero(numbers > 2),
        _decimals(read, is_number), len(options), (len(text) - stem) / max(1, len(options)), stem, stem - asked,
        len(lengths) / (1 + int(kinds[_STOPS] + kinds[_ASKED])),
    )  # fmt: skip
    np.log1p(found[:_SHARES], out=found[:_SHARES])
    found[_SHARES:] = (
        int(lengths.sum()) / words,
        np.count_nonzero(lengths > 8) / words,
        int(kinds[1]) / max(1, len(read.bytes)),
        different / words,
        len(numbers) / words,
    )
    return found


def _grouped(read: Hashed) -> NDArray[np.intp]:
    """The group of each word that has one."""
    places = np.searchsorted(_KNOWN, read.words)
    places[places == len(_KNOWN)] = 0
    return np.asarray(_GROUPS[places[_KNOWN[places] == read.words]])


def _decimals(read: Hashed, is_number: NDArray[np.bool_]) -> int:
    """Numbers that a point parts from the number before."""
    if _DECIMAL.search(read.raw) is None:
        return 0
    joined = np.flatnonzero(is_number[1:] & is_number[:-1] & (read.starts[1:] == read.ends[:-1] + 1))
    return int(np.count_nonzero(read.bytes[read.ends[joined]] == ord(".")))
