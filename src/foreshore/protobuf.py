"""The wire format of protocol buffers, as far as reading a model file needs it: fields by number, no schema."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["fields", "message", "text", "varints"]

_VARINT, _I64, _BYTES, _I32 = 0, 1, 2, 5


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a message: an integer, or the bytes of what has a length or is fixed.

    Raises `ValueError` or `IndexError` where it is none.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_I32, _I64):
            size = 4 if wire == _I32 else 8
        else:
            raise ValueError(f"field {number} has wire type {wire}")
        if at + size > len(data):
            raise ValueError(f"it breaks off in field {number}")
        yield number, data[at : at + size]
        at += size


def varints(data: memoryview) -> Iterator[int]:
    """The numbers that are packed one behind the other."""
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def message(value: int | memoryview) -> memoryview:
    """Raises `ValueError` for a number."""
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value


def text(value: int | memoryview) -> str:
    """Raises `ValueError` for what is no text."""
    return bytes(message(value)).decode()


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number has more than 64 bits")
