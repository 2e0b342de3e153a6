"""Which language a text is in, where a rule asks: py3langid's model, which the extra `language` brings along."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from foreshore.errors import ConfigError

__all__ = ["identify", "require_identifier"]

LONGEST = 2000  # characters that are read: more tell nothing new
SURE = 0.5  # the least probability of an answer: names, numbers and single words have none


def identify(text: str) -> str:
    """The ISO 639-1 code of its language, "" for none that is sure. About 50 µs for a sentence."""
    text = text[:LONGEST].strip()
    if not text:
        return ""
    code, _ = _identifier().classify(text.encode("utf-8", "replace"))
    return str(code) if len(code) == 2 else ""  # "und", "zxx" and languages without a code of two letters


def require_identifier() -> None:
    """Load it, which takes a second once. Raises `ConfigError` where the extra is not installed."""
    try:
        _identifier()
    except ImportError as error:
        what = "a rule reads request.language, which needs the package py3langid"
        raise ConfigError(what, hint="install it with: pip install 'foreshore[language]'") from error


@cache
def _identifier() -> Any:
    langid = importlib.import_module("py3langid.langid")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True, min_confidence=SURE)
