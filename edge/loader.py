"""What the file's header says about chatting and sampling."""

from __future__ import annotations

from contextlib import suppress

from foreshore.edge.engine import Engine
from foreshore.edge.prepare import Preparer
from foreshore.edge.template import ChatTemplate

__all__ = ["load_preparer"]

_DEFAULTS = {"temperature": "temp", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p"}


def load_preparer(engine: Engine) -> Preparer:
    """Raises `ModelError` where the model's chat template is damaged."""
    source = engine.template() if engine.info.generates else None
    vocab = engine.vocab
    template = None
    if source is not None:
        tokens = {"bos_token": vocab.named("bos"), "eos_token": vocab.named("eos")}
        template = ChatTemplate(source, tokens=tokens, control=vocab.control_pattern)
    return Preparer(vocab, engine.info, template, _sampling_defaults(engine))


def _sampling_defaults(engine: Engine) -> dict[str, float]:
    """The model's own `general.sampling.*` values."""
    found: dict[str, float] = {}
    for name, key in _DEFAULTS.items():
        with suppress(TypeError, ValueError):
            found[name] = float(engine.metadata(f"general.sampling.{key}"))  # type: ignore[arg-type]
    return found
