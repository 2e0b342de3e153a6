"""An encoder without a gateway: for training, for benchmarks, and for commands that decide as the gateway would."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from foreshore.edge import EngineOptions, LocalBackend
from foreshore.edge.loop_thread import LoopThread
from foreshore.edge.scoped import Scoped
from foreshore.errors import UsageError
from foreshore.quality.encoder import LARGEST, EncoderId, embed
from foreshore.router.encoder_identity import fingerprint, pooling

__all__ = ["LocalEncoder"]

BATCH = 32  # texts of one request, of about the same length, for the longest sets the pace

Matrix = NDArray[np.float32]


class LocalEncoder(Scoped):
    """`model` is NAME:VARIANT or a path, loaded in a worker process by `start`. `progress` is told how many of how many
    texts are done."""

    def __init__(
        self,
        model: str,
        *,
        options: EngineOptions | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._model, self._progress = model, progress
        self._backend = LocalBackend(model, options=options)
        self._thread = LoopThread("foreshore-encoder")
        self._identity: EncoderId | None = None

    @property
    def identity(self) -> EncoderId:
        """Raises as `start`."""
        return self._identity or self.start()

    def start(self) -> EncoderId:
        """Raises `NotFound` or `ModelError`, and `BadRequest` for a model that makes no vectors."""
        if self._identity is None:
            size = self._thread.call(embed(self._backend, ["one"])).shape[1]
            if size > LARGEST:
                raise UsageError(f"{self._model!r} makes vectors of {size} numbers, more than {LARGEST}")
            self._identity = EncoderId(
                model=self._model, sha256=fingerprint(self._model), pooling=pooling(self._model), dimension=size
            )
        return self._identity

    def __call__(self, texts: Sequence[str]) -> Matrix:
        """(texts, dimension)."""
        found = np.zeros((len(texts), self.identity.dimension), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), BATCH):
            at = order[start : start + BATCH]
            found[at] = self._thread.call(embed(self._backend, [texts[i] for i in at]))
            self._progress(start + len(at), len(texts))
        return found

    def close(self) -> None:
        self._thread.close(self._backend.close())
