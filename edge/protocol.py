"""What parent and worker say to each other: frozen dataclasses as JSON, each with its length before it.

JSON and not pickle, for the worker runs native code on files that may be hostile, and the parent must
not execute what such a process writes.
"""

from __future__ import annotations

import json
import struct
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from operator import attrgetter
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from foreshore import errors
from foreshore.clearance import Clearance
from foreshore.edge.options import EngineOptions, Load, ModelInfo
from foreshore.errors import BackendError, ContextExceeded, ForeshoreError, UpstreamError
from foreshore.types import Chunk, Request

__all__ = [
    "WARNING",
    "Cancel",
    "Failed",
    "Failure",
    "Message",
    "Ping",
    "Pong",
    "Ready",
    "Results",
    "SetThreads",
    "Start",
    "Submit",
    "decode",
    "encode",
    "request_of",
    "unframe",
]

WARNING = "foreshore warns: "  # begins a line of the worker's log that is for the user
MAX_MESSAGE = 256 * 1024 * 1024
_LENGTH = struct.Struct(">I")
_LOAD = tuple(field.name for field in fields(Load))
_load_values = attrgetter(*_LOAD)
_rest = attrgetter(*(field.name for field in fields(Chunk) if field.name != "text"))
_NO_REST = _rest(Chunk())
_dumps = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A `ForeshoreError` on its way between processes."""

    kind: str
    message: str
    hint: str | None = None
    param: str | None = None
    retry_after: float | None = None
    prompt_tokens: int = 0
    context_tokens: int = 0

    @staticmethod
    def of(error: ForeshoreError) -> Failure:
        return Failure(
            kind=type(error).__name__,
            message=error.message,
            hint=error.hint,
            param=error.param,
            retry_after=error.retry_after if isinstance(error, BackendError) else None,
            prompt_tokens=error.prompt_tokens if isinstance(error, ContextExceeded) else 0,
            context_tokens=error.context_tokens if isinstance(error, ContextExceeded) else 0,
        )

    def error(self, target: str) -> ForeshoreError:
        """The same error again; a backend's error names `target`."""
        kind = getattr(errors, self.kind, None) if self.kind in errors.__all__ else None
        if kind is ContextExceeded:
            return ContextExceeded(prompt_tokens=self.prompt_tokens, context_tokens=self.context_tokens)
        if kind is None:
            return UpstreamError(f"{self.kind}: {self.message}", target=target, hint=self.hint)
        if issubclass(kind, BackendError):
            failed: ForeshoreError = kind(self.message, target=target, hint=self.hint, retry_after=self.retry_after)
            return failed
        plain: ForeshoreError = kind(self.message, hint=self.hint, param=self.param)
        return plain


# Parent to worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The first message: load this."""

    path: str
    options: EngineOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    request: Request
    arrived: float  # on time.monotonic(), which the processes of a machine share


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetThreads:
    """From the next step on; requests that ask for determinism keep the number that the options gave."""

    threads: int


# Worker to parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    info: ModelInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The model could not be loaded; the worker ends."""

    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All that one step gave: chunks by request id, and requests that ended with an error."""

    chunks: tuple[tuple[str, Chunk], ...] = ()
    failures: tuple[tuple[str, Failure], ...] = ()
    load: Load | None = None  # None: hardly another than before


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    number: int
    busy_s: float = 0.0  # how long the engine's thread has been in its present step


Message = Start | Submit | Cancel | SetThreads | Ping | Ready | Failed | Results | Pong
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Message)}


def encode(message: Message) -> bytes:
    """One frame. Raises `TypeError` or `ValueError` for values that JSON does not have."""
    plain = _plain_results(message) if type(message) is Results else _plain(message)
    body = _dumps({"kind": type(message).__name__, **plain}).encode()
    if len(body) > MAX_MESSAGE:
        raise ValueError(f"a message of {len(body)} bytes is too long; at most {MAX_MESSAGE}")
    return _LENGTH.pack(len(body)) + body


def decode(body: bytes) -> Message:
    """The message in a frame's body. Raises `UpstreamError` for anything else."""
    try:
        value = json.loads(body)
        kind = _KINDS[value.pop("kind")]
        message: Message = _build_results(value) if kind is Results else _build(kind, value)
        return message
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UpstreamError(f"a message between the worker and its parent is damaged: {body[:80]!r}") from error


def request_of(body: bytes) -> str | None:
    """The id of the request in a frame that `decode` could not read, if it holds one."""
    try:
        found = json.loads(body)["request"]["id"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def unframe(buffer: bytearray) -> Iterator[bytes]:
    """Take whole frames' bodies off the front of `buffer`."""
    while len(buffer) >= _LENGTH.size:
        (size,) = _LENGTH.unpack_from(buffer)
        end = _LENGTH.size + size
        if size > MAX_MESSAGE:
            raise UpstreamError(f"a message between the worker and its parent claims {size} bytes")
        if len(buffer) < end:
            return
        body = bytes(buffer[_LENGTH.size : end])
        del buffer[:end]
        yield body


# A step's results pass here once for every token of every stream, so they have their own, shorter way:
# the usual chunk is its text alone, and the load its values in the order of its fields.


def _plain_results(results: Results) -> dict[str, Any]:
    chunks = [(i, c.text if _is_text(c) else _plain(c)) for i, c in results.chunks]
    failures = [(i, _plain(failure)) for i, failure in results.failures]
    load = None if results.load is None else _load_values(results.load)
    return {"chunks": chunks, "failures": failures, "load": load}


def _build_results(value: dict[str, Any]) -> Results:
    load = value["load"]
    return Results(
        chunks=tuple([(i, Chunk(text=c) if type(c) is str else _build(Chunk, c)) for i, c in value["chunks"]]),
        failures=tuple([(i, _build(Failure, failure)) for i, failure in value["failures"]]),
        load=None if load is None else Load(**dict(zip(_LOAD, load, strict=True))),
    )


def _is_text(chunk: Chunk) -> bool:
    return bool(_rest(chunk) == _NO_REST)


def _plain(value: Any) -> Any:
    """`value` as JSON; a dataclass leaves out fields at their default."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if is_dataclass(value):
        return {
            name: _plain(item)
            for name, default in _defaults(value.__class__)
            if (item := getattr(value, name)) is not default and item != default
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return value.decode("latin-1")
    raise TypeError(f"{value!r:.80} is not JSON")


@cache
def _defaults(kind: type[Any]) -> tuple[tuple[str, Any], ...]:
    # A clearance is for cloud targets; nothing of it leaves the process that granted it.
    return tuple((f.name, _default(f)) for f in fields(kind) if f.name != "clearance")


def _default(field: Field[Any]) -> Any:
    # Factories make mutable values or fresh ids: always sent.
    return MISSING if field.default is MISSING else field.default


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind, localns={"Clearance": Clearance})


def _build(hint: Any, value: Any) -> Any:
    """`value` from JSON as what `hint` says."""
    if value is None or hint is Any:
        return value
    if is_dataclass(hint):
        return _build_fields(hint, value)
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _build_union(args, value)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_build(args[0], item) for item in value)
        return tuple(_build(arg, item) for arg, item in zip(args, value, strict=True))
    if origin is Literal:
        return value
    if origin is not None and issubclass(origin, Mapping):
        return {_build(args[0], key): _build(args[1], item) for key, item in value.items()}
    if hint is bytes:
        return value.encode("latin-1")
    return hint(value) if hint in (int, float) else value


def _build_fields(kind: Any, value: dict[str, Any]) -> Any:
    hints = _hints(kind)
    return kind(**{name: _build(hints[name], item) for name, item in value.items()})


def _build_union(args: tuple[Any, ...], value: Any) -> Any:
    for arg in args:
        kind = get_origin(arg) or arg
        expected = {tuple: list, Mapping: dict}.get(kind, kind)
        if is_dataclass(arg) and isinstance(value, dict):
            return _build(arg, value)
        if kind is Literal or (
            isinstance(expected, type) and expected is not type(None) and isinstance(value, expected)
        ):
            return _build(arg, value)
    return float(value) if float in args else value
