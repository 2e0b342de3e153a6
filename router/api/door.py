"""One door of the gateway: a kind of body that becomes a `Request`, and the frame its answer comes in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from foreshore.errors import ForeshoreError
from foreshore.types import Chunk, Request, ServiceTier, Task

__all__ = ["Body", "Encoder", "Frame", "Unstreamed", "event"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What an answer says of where it comes from."""

    model: str
    fingerprint: str = ""
    service_tier: str = "default"  # that was used: a cloud target has its own queue and knows no tier of ours


class Encoder(Protocol):
    """Writes one answer, streamed (`opening`, `chunk`..., then `closing` or `error`) or `whole`."""

    def opening(self) -> bytes: ...
    def chunk(self, chunk: Chunk) -> bytes: ...
    def closing(self) -> bytes: ...
    def error(self, error: ForeshoreError) -> bytes: ...
    def whole(self, chunks: Sequence[Chunk]) -> Mapping[str, Any]: ...


class Unstreamed:
    """What an `Encoder` needs besides `whole` where an answer is never streamed."""

    def opening(self) -> bytes:
        return b""

    def chunk(self, chunk: Chunk) -> bytes:
        return b""

    def closing(self) -> bytes:
        return b""

    def error(self, error: ForeshoreError) -> bytes:
        return b""


class Body(Protocol):
    """A request body that was checked. `request` raises `BadRequest` for what a field's type cannot say."""

    task: ClassVar[Task]

    @property
    def streams(self) -> bool: ...
    @property
    def choices(self) -> int: ...
    @property
    def tier(self) -> ServiceTier | None: ...
    def request(self, raw: Mapping[str, Any]) -> Request: ...
    def encoder(self, frame: Frame) -> Encoder: ...


_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def event(body: Mapping[str, Any], *, name: str = "") -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    data = _dumps(body).encode("utf-8", "replace")
    return head + b"data: " + data + b"\n\n"
