"""Beginnings of prompts, kept over a restart: the KV cache's state after each, in files.

A tenant's name is nowhere in them; the tokens are, as they are in the states themselves: files and folder are for their
owner's eyes alone.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from foreshore.edge.prefix.file import DRAFT, ENDING, Header, create, read_header, read_state, remove, write
from foreshore.errors import SetupError

__all__ = ["MIN_TOKENS", "PrefixStore"]

MIN_TOKENS = 64  # a shorter beginning is computed faster than its state is read
_KEY = "tenants.key"
_KEY_BYTES = 32
_STALE_S = 3600.0  # a draft this old was left by a process that ended

_log = logging.getLogger("foreshore")


class PrefixStore:
    """Any number of threads and processes may use one folder at a time; the least lately used entries make room.

    `fingerprint` names what made the states (model file, KV type, engine's version): others' entries are never found,
    though they count against `max_bytes` and age away. What cannot be written is not kept: one line in the log says so.
    """

    def __init__(self, folder: Path, fingerprint: str, max_bytes: int = 1024**3) -> None:
        """Reads the headers of what is there. Raises `SetupError` for a folder that cannot be used, or not safely."""
        self.folder, self._max_bytes = folder, max_bytes
        self._fingerprint = hashlib.sha256(fingerprint.encode()).digest()
        self._lock = threading.Lock()
        self._entries: dict[str, tuple[bytes, int]] = {}  # file name -> the tenant's hash, tokens
        self._complained = False
        try:
            _prepare(folder)
            self._key = _tenants_key(folder / _KEY)
            self._refresh()
        except OSError as error:
            raise SetupError(
                f"the prefix cache's folder {str(folder)!r} cannot be used: {error.strerror or error}",
                hint="set prefix_cache_dir to a folder of your own",
            ) from error

    def __len__(self) -> int:
        """Entries that can be found."""
        return len(self._entries)

    def put(self, tenant: str, tokens: Sequence[int], state: bytes) -> None:
        """Keep the `state` after `tokens`, unless they are fewer than `MIN_TOKENS` or it does not fit."""
        if len(tokens) < MIN_TOKENS or not state:
            return
        owner, data = self._owner(tenant), _bytes(tokens)
        header = Header(
            fingerprint=self._fingerprint,
            owner=owner,
            digest=hashlib.sha256(state).digest(),
            state_bytes=len(state),
            tokens=len(tokens),
        )
        if header.file_bytes > self._max_bytes:
            return
        name = hashlib.sha256(self._fingerprint + owner + data).hexdigest() + ENDING
        with self._lock:
            try:
                if not self._touch(name):
                    self._make_room(header.file_bytes)
                    write(self.folder / name, header.pack(), data, state)
                self._entries[name] = owner, len(tokens)
            except OSError as error:
                self._complain(error)

    def match(self, tenant: str, tokens: Sequence[int]) -> tuple[int, Callable[[], bytes]] | None:
        """How many of the first `tokens` this tenant's longest entry has, and what reads its state.

        Reading gives b"" if the entry has gone or is damaged after all: a miss. A damaged file is removed.
        """
        owner, data = self._owner(tenant), _bytes(tokens)
        running, done = hashlib.sha256(self._fingerprint + owner), 0
        found: tuple[int, Callable[[], bytes]] | None = None
        with self._lock:
            for n in sorted({n for who, n in self._entries.values() if who == owner and n <= len(tokens)}):
                running.update(data[4 * done : 4 * n])
                done = n
                if (name := running.hexdigest() + ENDING) in self._entries:
                    found = n, partial(self._load, name)
        return found

    def _load(self, name: str) -> bytes:
        state = b""
        with suppress(OSError):
            state = read_state(self.folder / name)
            if state:
                self._touch(name)
            else:
                remove(self.folder / name)
        if not state:
            with self._lock:
                self._entries.pop(name, None)
        return state

    def _owner(self, tenant: str) -> bytes:
        return hmac.digest(self._key, tenant.encode("utf-8", "surrogatepass"), "sha256")

    def _touch(self, name: str) -> bool:
        """Whether the entry is there; it counts as used now."""
        try:
            os.utime(self.folder / name)
        except FileNotFoundError:
            return False
        return True

    def _make_room(self, size: int) -> None:
        """Remove what was used least lately until `size` bytes fit, entries of other processes as our own."""
        files = sorted(self._refresh(), key=lambda file: file[1].st_mtime_ns)
        total = sum(found.st_size for _, found in files)
        for name, found in files:
            if total + size <= self._max_bytes:
                return
            remove(self.folder / name)
            self._entries.pop(name, None)
            total -= found.st_size

    def _refresh(self) -> list[tuple[str, os.stat_result]]:
        """Learn of entries that others have written or removed. Returns all files that take up room."""
        files = list(_files(self.folder))
        names = {name for name, _ in files}
        self._entries = {name: entry for name, entry in self._entries.items() if name in names}
        for name in names - self._entries.keys():
            with suppress(FileNotFoundError):
                self._learn(name)
        return files

    def _learn(self, name: str) -> None:
        header = read_header(self.folder / name)
        if header is None:
            remove(self.folder / name)
        elif header.fingerprint == self._fingerprint:
            self._entries[name] = header.owner, header.tokens

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            _log.warning("the prefix cache in %s cannot be written: %s", self.folder, error.strerror or error)


def _prepare(folder: Path) -> None:
    """Make the folder, or see that nobody else could put a state into it that the native engine would read."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SetupError(
            f"others may write into the prefix cache's folder {str(folder)!r}",
            hint=f"use one of your own, or chmod 700 {str(folder)!r}",
        )


def _tenants_key(path: Path) -> bytes:
    """The folder's own secret, made by whoever comes first. A damaged one is replaced: what it hid ages away."""
    while True:
        with suppress(FileNotFoundError):
            key = path.read_bytes()
            if len(key) == _KEY_BYTES:
                return key
            remove(path)
        draft = path.with_name(f"{secrets.token_hex(8)}{DRAFT}")
        create(draft, secrets.token_bytes(_KEY_BYTES))
        with suppress(FileExistsError):
            os.link(draft, path)
        remove(draft)


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """The entries. Drafts that nobody will finish are removed."""
    with os.scandir(folder) as listed:
        for file in listed:
            with suppress(FileNotFoundError):
                found = file.stat(follow_symlinks=False)
                if file.name.endswith(ENDING) and stat.S_ISREG(found.st_mode):
                    yield file.name, found
                elif file.name.endswith(DRAFT) and time.time() - found.st_mtime > _STALE_S:
                    remove(folder / file.name)


def _bytes(tokens: Sequence[int]) -> bytes:
    return np.asarray(tokens, dtype="<i4").tobytes()
