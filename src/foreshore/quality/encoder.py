"""A text as a vector: the encoder on this machine that an estimator may be told by, and how it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import floor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foreshore.backend import Backend, collect
from foreshore.errors import ContextExceeded, UpstreamError
from foreshore.types import Request

__all__ = ["LARGEST", "READ", "Embeds", "EncoderId", "embed", "shortened"]

READ = 600  # characters, about 150 tokens: a small encoder takes milliseconds for each hundred
LARGEST = 8192  # numbers of a vector
SPARE = 0.9  # of what should just fit: tokens are not spread evenly over characters

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderId:
    """Which encoder made the vectors that were learnt from; another's mean something else. `sha256` is of all its files
    that bear on them: weights, vocabulary, pooling. Vectors are of length one."""

    model: str  # as it was named then: NAME:VARIANT or a path
    sha256: str
    pooling: str
    dimension: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> EncoderId:
        """Raises `KeyError`, `TypeError` or `ValueError` for what `to_json` cannot have made."""
        found = cls(**{name: value[name] for name in cls.__slots__})
        if not all(isinstance(word, str) for word in (found.model, found.sha256, found.pooling)):
            raise TypeError("its encoder is not named by texts")
        if not isinstance(found.dimension, int) or not 0 < found.dimension <= LARGEST:
            raise ValueError(f"its encoder makes vectors of {found.dimension!r} numbers")
        return found


class Embeds(Protocol):
    """What learning needs of an encoder."""

    @property
    def identity(self) -> EncoderId: ...

    def __call__(self, texts: Sequence[str]) -> Matrix:
        """(texts, dimension)."""


async def embed(
    backend: Backend, texts: Sequence[str], *, tenant: str = "default", deadline: float | None = None
) -> Matrix:
    """(texts, dimension), each of length one. Of a text that is longer than is read, or than the encoder reads, the
    middle is left out. Raises what `backend` raises, and `UpstreamError` for numbers that are not finite."""
    inputs = tuple(shortened(text, READ) for text in texts)
    try:
        return await _vectors(backend, Request(task="embedding", inputs=inputs, tenant=tenant, deadline=deadline))
    except ContextExceeded as error:
        if len(texts) > 1:  # it does not say which
            return np.vstack([await embed(backend, [text], tenant=tenant, deadline=deadline) for text in texts])
        fits = floor(SPARE * len(inputs[0]) * error.context_tokens / error.prompt_tokens)
        if fits < 1:
            raise
        return await embed(backend, [shortened(inputs[0], fits)], tenant=tenant, deadline=deadline)


def shortened(text: str, most: int) -> str:
    """At most `most` characters: two thirds of them from its beginning, the rest from its end."""
    if len(text) <= most:
        return text
    end = most // 3
    return text[: most - end] + text[len(text) - end :]


async def _vectors(backend: Backend, request: Request) -> Matrix:
    answer = await collect(backend, request)
    found = np.array(answer.embeddings, np.float32)
    if found.ndim != 2 or len(found) != len(request.inputs) or not np.isfinite(found).all():
        raise UpstreamError(f"{backend.name!r} made no vectors of {len(request.inputs)} texts", target=backend.name)
    return found
