"""Detectors of personal data and secrets: structured kinds only, each with its own check.

They decide where a request may go, so a miss costs more than a false alarm: a false alarm keeps the request on this
machine. Every pattern is linear in the text (bounded repeats, anchored starts). Names and addresses need a model; these
do not find them.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from types import ModuleType

__all__ = ["DETECTORS", "detect", "find"]

Span = tuple[int, int]

# Looking over bytes for what every find has takes a tenth of the time that a pattern takes to look for it.
_SHAPES = bytes(ord("0") if c.isdigit() else ord("a") if c.isalpha() else ord(" ") for c in map(chr, range(128)))
_SHAPES += bytes(128)
_BETWEEN = bytes(ord(c) for c in map(chr, range(128)) if c.isspace() or c in ".-_/")  # the digits of a card
_OTHERS = bytes(ord(c) for c in map(chr, range(128)) if not c.isdigit())
_DIGITS_ALONE = bytes.maketrans(bytes(range(ord("0"), ord("9") + 1)) + _OTHERS, b"0" * 10 + b" " * len(_OTHERS))

# One character before the @ is enough, so no run of letters is walked twice. %40 is the @ of a URL.
_EMAIL = re.compile(r"[^\s@<>()\[\],;:\"](?:@|%40)((?:[\w-]{1,63}\.){1,8})[^\W\d_]{2,24}(?![^\W_])")


def emails(text: str) -> Iterator[Span]:
    """Addresses after RFC 5322's dot-atom form with a dotted domain."""
    if "@" in text or "%40" in text:
        yield from (m.span() for m in _EMAIL.finditer(text))


_DIGITS = re.compile(r"\d(?:[\s.\-_/]{0,3}\d){11,}")
_SEPARATED = re.compile(r"\d+")
# Issuer prefixes and lengths after ISO/IEC 7812 as the networks publish them.
_BRANDS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d{2}|222[1-9]|22[3-9]\d|2[3-6]\d{2}|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|3(?:0[0-59]|[689]\d)\d{11}"  # Diners Club
    r"|(?:6011|64[4-9]\d|65\d{2})\d{12}(?:\d{3})?"  # Discover
    r"|35\d{14}(?:\d{3})?|(?:1800|2131)\d{11}"  # JCB, whose test numbers leave 3528 to 3589
    r"|62\d{14,17}|(?:50|5[6-9]|6\d)\d{10,17}"  # UnionPay, Maestro
)
_GROUPINGS = {
    (4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 4, 4, 1), (4, 6, 5), (4, 6, 4), (6, 13), (6, 10), (8, 8), (4, 4, 5), (8, 5),
}  # fmt: skip


def cards(text: str) -> Iterator[Span]:
    """Payment card numbers: an issuer's prefix and length, and the Luhn check (ISO/IEC 7812-1 annex B)."""
    if text.isascii() and b"0" * 12 not in text.encode().translate(_SHAPES, _BETWEEN):
        return
    for run in _DIGITS.finditer(text):
        groups = [(m.start() + run.start(), m.group()) for m in _SEPARATED.finditer(run.group())]
        yield from _cards_in(groups)


def _cards_in(groups: list[tuple[int, str]]) -> Iterator[Span]:
    """Cards that begin and end at a group's edge: `4111 1111 1111 1111`, `4111111111111111`, `4 1 1 1 ...`."""
    for first in range(len(groups)):
        number, sizes = "", []
        for start, digits in groups[first : first + 19]:
            number += digits
            sizes.append(len(digits))
            if len(number) > 19:
                break
            if len(number) >= 12 and _BRANDS.fullmatch(number) and _grouped(sizes) and luhn(number):
                yield groups[first][0], start + len(digits)


def _grouped(sizes: list[int]) -> bool:
    """Whether a card is written so; a list of two- or three-digit numbers is not one."""
    return len(sizes) == 1 or tuple(sizes) in _GROUPINGS or (max(sizes) <= 2 and 15 <= sum(sizes) <= 16)


def luhn(number: str) -> bool:
    """The Luhn check digit is right and the number is not one digit repeated."""
    digits = [int(d) for d in reversed(number)]
    doubled = (2 * d - 9 if d > 4 else 2 * d for d in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0 and len(set(digits)) > 1


_IBAN = re.compile(r"(?<![A-Za-z0-9])(?=([A-Za-z]{2}\d{2}(?:[\s.\-]?[A-Za-z0-9]){11,30}))")
_SEPARATORS = re.compile(r"[\s.\-]")
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HN HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC",
        32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip


def ibans(text: str) -> Iterator[Span]:
    """Account numbers whose country, length and check digits agree (ISO 13616, mod 97)."""
    if text.isascii() and b"aa00" not in text.encode().translate(_SHAPES):
        return
    for match in _IBAN.finditer(text):
        compact = _SEPARATORS.sub("", match.group(1)).upper()
        number = compact[: _IBAN_LENGTHS.get(compact[:2], 0)]
        if len(number) == _IBAN_LENGTHS.get(compact[:2]) and mod97(number) == 1:
            yield match.start(1), match.end(1)


def mod97(iban: str) -> int:
    """ISO 7064 mod 97-10 of the number with its first four characters moved to the end."""
    return int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97


_PHONE = re.compile(
    r"(?<![\w.,:/+\-])"
    r"(?:\+|\(\+?|00(?=[1-9]))?\d(?:[\s.\-/]{0,2}[()]?[\s.\-]?\d){6,14}"
    r"(?![\w:/+*=%]|[.,\-]\d)"
)
_PHONE_WORD = re.compile(
    r"(?i)\b(?:phones?|telephone|tel|call(?:ed|ing|s)?|mobile|cell(?:phone)?|fax|dial(?:ed|ling)?|whatsapp|sms|text me|"
    r"answering|hotline|contact|reach|numbers? (?:is|are|was)|voicemail|"
    r"(?:my|his|her|our|your|their) (?:\w{1,12} )?numbers?)\b"
)
_STRONG_PHONE = re.compile(
    r"\(?\+\(?\d[\d\s().\-/]{6,}"  # +41 62 585 51 90
    r"|\(\+?\d{1,4}\)[\s.\-]?\d[\d\s.\-]{4,}"  # (64) 3591-3246
    r"|00[1-9]\d{0,2}[\s.\-/]\d[\d\s.\-/]{4,}"  # 0049 30 1234567
    r"|0\d{1,4}[\s.\-/]\d{2,4}(?:[\s.\-/]?\d{2,4}){1,3}"  # 0489 25 37 29
    r"|(?:1[\s.\-])?[2-9]\d{2}[.\-][2-9]\d{2}[.\-]\d{4}"  # 780-999-2181
    r"|\d{2}([.\-])\d{2}\1\d{2}\1\d{2}(?:\1\d{2})?"  # 71-33-52-22
)
_NEAR = 48  # characters before a weakly shaped number in which a word about phones makes it one
_DATE = re.compile(r"(?:19|20)\d{2}([.\-/])\d{1,2}\1\d{1,2}.*|\d{1,2}([.\-/])\d{1,2}\2(?:19|20)\d{2}.*", re.S)
_IPV4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")


_SEVEN_DIGITS = re.compile(r"\d(?:\D{0,4}\d){6}")
_REGIONS = ("US", "GB")  # whose national way of writing the library looks for, besides the international one
_TRIES = 1000  # of the library, for each text and region: it takes 50 microseconds for one


def phones(text: str) -> Iterator[Span]:
    """Telephone numbers by our own patterns, and by `phonenumbers` too where that is installed."""
    if not _seven_digits(text):
        return
    found = set[Span]()
    for find_in in (_shaped_phones, _listed_phones):
        for span in find_in(text):
            if span not in found:
                found.add(span)
                yield span


def _seven_digits(text: str) -> bool:
    """Every number that is found has them, with four other characters at most between two."""
    if not text.isascii():
        return _SEVEN_DIGITS.search(text) is not None
    digits = text.encode().translate(_DIGITS_ALONE).replace(b" " * 5, b"|")
    return b"0" * 7 in digits.translate(None, b" ")


def _listed_phones(text: str) -> Iterator[Span]:
    """What the library's tables of numbering plans hold for a valid number. Loaded when first there is something."""
    if (library := _phonenumbers()) is not None:
        for region in _REGIONS:
            for match in library.PhoneNumberMatcher(text, region, max_tries=_TRIES):
                yield match.start, match.end


@cache
def _phonenumbers() -> ModuleType | None:
    try:
        return importlib.import_module("phonenumbers")
    except ImportError:
        return None


def _shaped_phones(text: str) -> Iterator[Span]:
    """Written as only phone numbers are, or any 7 to 15 digits after a word about phones."""
    for match in _PHONE.finditer(text):
        number = match.group()
        if _DATE.fullmatch(number) or _IPV4.fullmatch(number):
            continue
        nearby = text[max(0, match.start() - _NEAR) : match.start()]
        named = sum(c.isdigit() for c in number) <= 12 and _PHONE_WORD.search(nearby)
        if named or _STRONG_PHONE.fullmatch(number):
            yield match.span()


_API_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"sk-(?:ant-|proj-|svcacct-|admin-|or-|lf-)?[A-Za-z0-9_\-]{16}"  # OpenAI, Anthropic and those who follow them
    r"|(?:AKIA|ASIA|AROA|AIDA|ABIA|ACCA)[A-Z2-7]{16}"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{20}|github_pat_[A-Za-z0-9_]{20}|glpat-[A-Za-z0-9_\-]{16}"
    r"|AIza[A-Za-z0-9_\-]{30}|ya29\.[A-Za-z0-9_\-]{20}|GOCSPX-[A-Za-z0-9_\-]{20}"  # Google
    r"|xox[abeoprs]-[A-Za-z0-9\-]{10}|xapp-\d-[A-Za-z0-9\-]{10}"  # Slack
    r"|[sr]k_(?:live|test)_[A-Za-z0-9]{16}|whsec_[A-Za-z0-9]{16}"  # Stripe
    r"|hf_[A-Za-z0-9]{24}|gsk_[A-Za-z0-9]{24}|npm_[A-Za-z0-9]{30}|pypi-[A-Za-z0-9_\-]{24}|SG\.[\w\-]{16}"
    r"|AccountKey=[A-Za-z0-9+/]{40}"  # Azure storage
    r")|[A-Za-z0-9_\-]{8}\.eyJ[A-Za-z0-9_\-]{4}"  # a JWT, where its payload begins: no header is walked
    r"|-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY"
)
_NAMED_SECRET = re.compile(
    r"(?i)(?:(?:api|access)[_\- ]?key|secret(?:[_\- ]?(?:access)?[_\- ]?key)?|(?:auth|access)[_\- ]?token|"
    r"client[_\- ]?secret|password|passwd|bearer)[\"']?(?:\s{0,3}(?:[:=]|is)\s{0,3}|\s)[\"']?"
    r"(?=[^\s\"']{0,64}\d)(?=[^\s\"']{0,64}[A-Za-z])([A-Za-z0-9+/=_\-.!@#$%^&*]{12})"
)


# One of which is in whatever the patterns above find: looking for words takes a tenth of the time.
_KEY_WORDS = (
    "sk-", "AKIA", "ASIA", "AROA", "AIDA", "ABIA", "ACCA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_",
    "glpat-", "AIza", "ya29.", "GOCSPX-", "xox", "xapp-", "k_live_", "k_test_", "whsec_", "hf_", "gsk_", "npm_",
    "pypi-", "SG.", "AccountKey=", ".eyJ", "PRIVATE KEY",
)  # fmt: skip
# The same by a character that they have and most texts lack.
_KEY_MARKS = {mark: [w for w in _KEY_WORDS if mark in w] for mark in "_-."}
_KEY_MARKS[""] = [w for w in _KEY_WORDS if not set(w) & set(_KEY_MARKS)]
_SECRET_WORDS = ("key", "secret", "token", "passw", "bearer")


def api_keys(text: str) -> Iterator[Span]:
    """Keys by their published prefixes, private key blocks, JWTs, and what is plainly introduced as a secret."""
    if any(mark in text and any(word in text for word in words) for mark, words in _KEY_MARKS.items()):
        yield from (m.span() for m in _API_KEY.finditer(text))
    folded = text.casefold()  # as (?i) has it: the Kelvin sign is a k
    if any(word in folded for word in _SECRET_WORDS):
        yield from (m.span() for m in _NAMED_SECRET.finditer(text))


DETECTORS: dict[str, Callable[[str], Iterator[Span]]] = {
    "email": emails,
    "card": cards,
    "phone": phones,
    "iban": ibans,
    "api_key": api_keys,
}


WINDOW = 32_768  # characters read at a time: a search holds the interpreter's lock until it ends
OVERLAP = 512  # characters, more than any find and what it looks at around it


def detect(text: str, detectors: Iterable[str]) -> tuple[str, ...]:
    """Names of the `detectors` that find something in `text`; never what they found."""
    windows = [text[i : i + WINDOW] for i in range(0, max(1, len(text) - OVERLAP), WINDOW - OVERLAP)]
    return tuple(name for name in detectors if any(_finds(name, window) for window in windows))


def _finds(detector: str, text: str) -> bool:
    return next(DETECTORS[detector](text), None) is not None


def find(text: str, detector: str) -> list[Span]:
    """Where `detector` finds something, as (start, end) offsets."""
    return list(DETECTORS[detector](text))
