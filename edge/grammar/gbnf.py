"""What all writers of GBNF, llama.cpp's grammar notation, share."""

from __future__ import annotations

import re

__all__ = ["literal"]


def literal(text: str) -> str:
    """`text` as a GBNF string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\x{ord(m.group()):02x}", escaped) + '"'
