"""A text's documents, packed for a `Reader`. Each is read by itself, as mixes are measured: what chats that follow one
another make of each other's tokens is not what a chat alone makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from foreshore.quantize.calibrate_child import Reader
from foreshore.quantize.channel import Json

__all__ = ["SIDE_BY_SIDE", "packs"]

SIDE_BY_SIDE = 64  # documents, each of which sees only itself


def packs(reader: Reader, job: Json) -> list[list[list[int]]]:
    """Windows of at most the reader's context, until the job's `tokens` are reached, in packs that `Reader.read` takes:
    at most `SIDE_BY_SIDE` windows, of its context in all."""
    return list(_packed(_windows(reader, job), reader.context))


def _windows(reader: Reader, job: Json) -> Iterator[list[int]]:
    left, size = job["tokens"], reader.context
    for text in job["documents"]:
        tokens = reader.vocab.tokenize(text, special=job["special"], begin=True)[:left]
        left -= len(tokens)
        yield from (tokens[start : start + size] for start in range(0, len(tokens), size))


def _packed(windows: Iterable[list[int]], room: int) -> Iterator[list[list[int]]]:
    pack: list[list[int]] = []
    for window in windows:
        if pack and (len(pack) == SIDE_BY_SIDE or sum(map(len, pack)) + len(window) > room):
            yield pack
            pack = []
        pack.append(window)
    if pack:
        yield pack
