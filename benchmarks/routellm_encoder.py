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

ALONE = 100  # prompts that are timed each for itself


class Remembered:
    """`alone_ms` are the times of single prompts, as a gateway would wait for them; empty until a row asks."""

    def __init__(self, encoder: LocalEncoder) -> None:
        self.identity: EncoderId = encoder.identity
        self.alone_ms: Sequence[float] = ()
        self._encoder = encoder
        self._known: dict[str, NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        fresh = [text for text in dict.fromkeys(texts) if text not in self._known]
        if fresh:
            self.alone_ms = self.alone_ms or [self._timed(text) for text in fresh[:ALONE]]
            self._known.update(zip(fresh, self._encoder(fresh), strict=True))
        return np.stack([self._known[text] for text in texts])

    def to_json(self) -> dict[str, Any]:
        timed = self.alone_ms or [0.0]
        p50, p90 = (float(np.quantile(timed, share)) for share in (0.5, 0.9))
        return {**self.identity.to_json(), "prompts": len(self._known), "alone_p50_ms": p50, "alone_p90_ms": p90}

    def _timed(self, text: str) -> float:
        began = time.monotonic()
        self._encoder([text])
        return (time.monotonic() - began) * 1e3


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
