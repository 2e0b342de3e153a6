"""What all writers of GBNF, llama.cpp's grammar notation, share."""

from __future__ import annotations

import re

__all__ = ["in_class", "literal"]


def literal(text: str) -> str:
    """`text` as a GBNF string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\x{ord(m.group()):02x}", escaped) + '"'


def in_class(letter: str) -> str:
    """`letter` between the brackets of a character class; none that a string must escape."""
    return {"^": r"\x5e"}.get(letter, f"\\{letter}" if letter in "]-[" else letter)
