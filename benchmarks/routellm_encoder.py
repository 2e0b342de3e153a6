"""The encoder that tells the estimator in some rows, each prompt embedded once however many folds see it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshore.cli.console import err
from foreshore.quality.encoder import EncoderId
from foreshore.router.local_encoder import LocalEncoder

__all__ = ["Remembered", "encoder_of"]


class Remembered:
    """`texts` and `seconds` say how many were embedded, a batch at a time, and how long that took."""

    def __init__(self, encoder: LocalEncoder) -> None:
        self.identity: EncoderId = encoder.identity
        self.texts, self.seconds = 0, 0.0
        self._encoder = encoder
        self._known: dict[str, NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        fresh = [text for text in dict.fromkeys(texts) if text not in self._known]
        if fresh:
            began = time.monotonic()
            self._known.update(zip(fresh, self._encoder(fresh), strict=True))
            self.texts, self.seconds = self.texts + len(fresh), self.seconds + time.monotonic() - began
        return np.stack([self._known[text] for text in texts])

    def to_json(self) -> dict[str, Any]:
        return {**self.identity.to_json(), "prompts": self.texts, "seconds": self.seconds}


@contextmanager
def encoder_of(model: str | None) -> Iterator[Remembered | None]:
    """Loaded for as long as the context lasts; None where no model is named."""
    if model is None:
        yield None
        return
    with err.status(f"loading {model}") as status:

        def say(done: int, total: int) -> None:
            status.update(f"embedded {done} of {total} prompts")

        with LocalEncoder(model, progress=say) as encoder:
            yield Remembered(encoder)
