"""Regular expressions of JSON Schema's `pattern`, the simple ones, as GBNF over the letters of a JSON string.

What is written under the grammar always matches. Where the expression would also match a quote, a backslash or a
control character through a class or a dot, these are left out, for they would have to be escaped in JSON.
"""

from __future__ import annotations

from foreshore.edge.grammar.gbnf import in_class, literal

__all__ = ["BadPattern", "pattern_rule"]

MAX_LENGTH = 500
_NEVER = r'"\\\x00-\x1f\x7f'  # in a class: what a JSON string must escape
_CLASSES = {"d": "0-9", "w": "a-zA-Z0-9_", "s": " "}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}
_LITERAL = set(".^$*+?()[]{}|\\/-\"'_ #&@%,:;=!<>~`")  # what may be escaped to stand for itself


class BadPattern(ValueError):
    """The expression is damaged, or uses more than is known here; its text says what."""


def pattern_rule(pattern: str) -> str:
    """An expression for all of a JSON string, its quotes included. Raises `BadPattern`."""
    if len(pattern) > MAX_LENGTH:
        raise BadPattern(f"is longer than {MAX_LENGTH} characters")
    reader = _Reader(pattern)
    body = reader.alternatives(top=True)
    if reader.at < len(pattern):
        raise BadPattern(f"has an unexpected {pattern[reader.at]!r}")
    return f'"\\"" ({body}) "\\""'


class _Reader:
    """Reads alternatives of sequences of repeated atoms, and writes them as GBNF."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self.at = 0

    def alternatives(self, *, top: bool = False) -> str:
        parts = [self._sequence(top)]
        while self._take("|"):
            parts.append(self._sequence(top))
        return " | ".join(parts)

    def _sequence(self, top: bool) -> str:
        """At the top each alternative may be anchored; where it is not, any text may stand around it."""
        free = f"[^{_NEVER}]*"
        parts = [free] if top and not self._take("^") else []
        ended = False
        while self.at < len(self._pattern) and self._pattern[self.at] not in "|)":
            if ended:
                raise BadPattern("has something after '$'")
            if self._pattern[self.at] == "$" and top:
                self.at, ended = self.at + 1, True
            else:
                parts.append(self._repeated())
        if top and not ended:
            parts.append(free)
        return " ".join(parts) or '""'

    def _repeated(self) -> str:
        atom = self._atom()
        if self._peek() in ("*", "+", "?"):
            atom += self._next()
        elif self._peek() == "{":
            atom += self._times()
        if self._peek() in ("?", "+", "*", "{") and self._peek():
            raise BadPattern(f"has {self._peek()!r} after a repetition")
        return atom

    def _times(self) -> str:
        end = self._pattern.find("}", self.at)
        counts = self._pattern[self.at + 1 : max(end, 0)].split(",")
        if end < 0 or len(counts) > 2 or not all(c.isdecimal() for c in counts[: 1 if counts[-1] == "" else 2]):
            raise BadPattern("has a '{' that is no repetition")
        numbers = [int(c) for c in counts if c]
        if any(n > 2000 for n in numbers) or numbers != sorted(numbers):
            raise BadPattern("repeats something too often, or less than at least")
        self.at = end + 1
        return "{" + ",".join(counts) + "}"

    def _atom(self) -> str:
        letter = self._next()
        if letter == "(":
            return self._group()
        if letter == "[":
            return self._class()
        if letter == ".":
            return f"[^{_NEVER}]"
        if letter == "\\":
            return self._escape()
        if letter in "*+?{}^$":
            raise BadPattern(f"has a {letter!r} that is not escaped")
        return _written(letter)

    def _group(self) -> str:
        if self._take("?") and not self._take(":"):
            raise BadPattern("has a group that is more than (...) or (?:...)")
        body = self.alternatives()
        if not self._take(")"):
            raise BadPattern("has a group that does not end")
        return f"({body})"

    def _escape(self) -> str:
        letter = self._next()
        if letter in _CLASSES:
            return f"[{_CLASSES[letter]}]"
        if letter.lower() in _CLASSES:
            return f"[^{_CLASSES[letter.lower()]}{_NEVER}]"
        return _written(self._escaped(letter))

    def _escaped(self, letter: str) -> str:
        if letter in _ESCAPES:
            return _ESCAPES[letter]
        if letter not in _LITERAL:
            raise BadPattern(f"has '\\{letter}', which is not known here")
        return letter

    def _class(self) -> str:
        inverted = self._take("^")
        letters: list[str] = []
        while not self._take("]"):
            letters.append(self._range())
        if not letters:
            raise BadPattern("has an empty class")
        body = "".join(letters)
        return f"[^{body}{_NEVER}]" if inverted else f"[{body}]"

    def _range(self) -> str:
        first = self._member()
        if len(first) > 1 or self._peek() != "-" or self._pattern[self.at + 1 : self.at + 2] in ("]", ""):
            return first if len(first) > 1 else _in_class(first)
        self.at += 1
        last = self._member()
        if len(last) > 1 or last < first:
            raise BadPattern("has a range that goes backwards or is none")
        if any(first <= c <= last for c in '"\\') or first < " ":
            raise BadPattern("has a range over characters that JSON must escape")
        return f"{_in_class(first)}-{_in_class(last)}"

    def _member(self) -> str:
        letter = self._next()
        if letter != "\\":
            return letter
        letter = self._next()
        return _CLASSES[letter] if letter in _CLASSES else self._escaped(letter)

    def _peek(self) -> str:
        return self._pattern[self.at : self.at + 1]

    def _take(self, letter: str) -> bool:
        found = self._peek() == letter
        self.at += found
        return found

    def _next(self) -> str:
        if self.at >= len(self._pattern):
            raise BadPattern("ends too early")
        self.at += 1
        return self._pattern[self.at - 1]


def _written(letter: str) -> str:
    """One letter as a JSON string has it."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\f": "\\f"}
    return literal(escapes.get(letter, letter))


def _in_class(letter: str) -> str:
    if letter in '"\\' or letter < " ":
        raise BadPattern("has a class with a character that JSON must escape")
    return in_class(letter)
