"""Beginnings of prompts, kept over a restart: the KV cache's state after each, in files.

A radix tree over their tokens finds the file with the longest beginning of a prompt, wherever the two part.
A tenant's name is nowhere in them; the tokens are, as they are in the states themselves: files and folder are for their
owner's eyes alone.
"""

from __future__ import annotations

import errno
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
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from foreshore.edge.prefix.file import (
    DRAFT,
    ENDING,
    OURS,
    Header,
    Tokens,
    create,
    read_state,
    read_tokens,
    remove,
    write,
)
from foreshore.edge.prefix.index import PrefixIndex
from foreshore.errors import ConfigError, SetupError

__all__ = ["MIN_TOKENS", "Found", "PrefixStore", "open_store"]

MIN_TOKENS = 64  # a shorter beginning is computed faster than its state is read
SPARE = 2  # a state of up to so many times the tokens serves as well: the shorter one need not be kept beside it
_KEY = "tenants.key"
_KEY_BYTES = 32
_STALE_S = 3600.0  # a draft this old was left by a process that ended
_NONSENSE = (errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)  # no folder can be there

_log = logging.getLogger("foreshore")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The first `ready` of the tokens asked for are the first of a state after `cells` tokens.

    `read` gives those tokens and the state, or None if the entry has gone or is damaged after all.
    """

    ready: int
    cells: int
    read: Callable[[], tuple[list[int], bytes] | None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Entry:
    name: str
    owner: bytes
    tokens: Tokens

    @property
    def cells(self) -> int:
        return len(self.tokens)


def open_store(folder: str, fingerprint: str) -> PrefixStore | None:
    """None, and a line in the log, where the disk is full or may not be written: nothing is kept then.

    Raises `ConfigError` for a path where no folder can be, `SetupError` for one that is not safe.
    """
    try:
        return PrefixStore(Path(folder).expanduser(), fingerprint)
    except OSError as error:
        if error.errno in _NONSENSE:
            raise _no_folder(folder, error.strerror) from error
        _log.warning("no prefix cache on disk: %s cannot be used: %s", folder, error.strerror or error)
        return None
    except (RuntimeError, ValueError) as error:  # a home that nobody has, a zero byte
        raise _no_folder(folder, str(error)) from error


class PrefixStore:
    """Any number of threads and processes may use one folder at a time; the least lately used entries make room.

    `fingerprint` names what made the states (model file, KV type, engine's version): others' entries are never found,
    though they count against `max_bytes` and age away. In memory are the tokens of our own, a small part of their
    files. What cannot be written is not kept: one line in the log says so.
    """

    def __init__(self, folder: Path, fingerprint: str, max_bytes: int = 1024**3) -> None:
        """Reads the tokens of what is there. Raises `OSError`, and `SetupError` for a folder that is not safe."""
        self.folder, self._max_bytes = folder, max_bytes
        self._fingerprint = hashlib.sha256(fingerprint.encode()).digest()
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}  # by file name
        self._index = PrefixIndex[_Entry]()  # by tenant
        self._strange: set[str] = set()  # files of others that the log has named
        self._complained = False
        _prepare(folder)
        self._key = _tenants_key(folder / _KEY)
        self._refresh()

    def __len__(self) -> int:
        """Entries that can be found."""
        return len(self._entries)

    def put(self, tenant: str, tokens: Sequence[int], state: bytes) -> None:
        """Keep the `state` after `tokens`, unless they are fewer than `MIN_TOKENS`, or it does not fit, or a longer one
        serves as well. Shorter ones that this one serves for are removed."""
        if len(tokens) < MIN_TOKENS or not state:
            return
        owner, path = self._owner(tenant), np.asarray(tokens, np.int32)
        data = path.astype("<i4").tobytes()
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
                if self._serves(owner, path):
                    return
                if not self._touch(name):
                    self._make_room(header.file_bytes)
                    write(self.folder / name, header.pack(), data, state)
                self._add(_Entry(name=name, owner=owner, tokens=path))
                self._remove_served(self._entries[name])
            except OSError as error:
                self._complain(error)

    def serves(self, tenant: str, tokens: Sequence[int]) -> bool:
        """Whether an entry that is not much longer begins with `tokens`, so that `put` would do nothing; it counts as
        used now."""
        with self._lock, suppress(OSError):
            return self._serves(self._owner(tenant), np.asarray(tokens, np.int32))
        return False

    def match(self, tenant: str, tokens: Sequence[int]) -> Found | None:
        """The entry of this tenant that has most of the beginning of `tokens`; of equals the shortest."""
        with self._lock:
            found = self._index.find(self._owner(tenant), tokens)
        if found.source is None or found.ready < MIN_TOKENS:
            return None
        return Found(ready=found.ready, cells=found.source.cells, read=partial(self._load, found.source))

    def _load(self, entry: _Entry) -> tuple[list[int], bytes] | None:
        path = self.folder / entry.name
        try:
            read = read_state(path)
            if read is not None:
                with suppress(OSError):  # a disk that is only for reading
                    os.utime(path)
                return read[0].tolist(), read[1]
            self._discard(entry.name)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                self._complain(error)
        with self._lock, suppress(OSError):
            self._drop(entry.name)
            self._refresh()  # another process may have put a longer one in its place
        return None

    def _serves(self, owner: bytes, path: Tokens) -> bool:
        found = self._index.find(owner, path)
        if found.ready < len(path) or found.source is None or found.source.cells > SPARE * len(path):
            return False
        return self._touch(found.source.name)

    def _remove_served(self, entry: _Entry) -> None:
        for other in self._index.same_beginning(entry):
            if entry.cells <= SPARE * other.cells:
                remove(self.folder / other.name)
                self._drop(other.name)

    def _add(self, entry: _Entry) -> None:
        self._drop(entry.name)
        self._entries[entry.name] = entry
        self._index.add(entry.owner, entry.tokens, entry)

    def _drop(self, name: str) -> None:
        if (entry := self._entries.pop(name, None)) is not None:
            self._index.remove(entry)

    def _owner(self, tenant: str) -> bytes:
        return hmac.digest(self._key, tenant.encode("utf-8", "surrogatepass"), "sha256")

    def _touch(self, name: str) -> bool:
        """Whether the entry is there; it counts as used now."""
        try:
            os.utime(self.folder / name)
        except FileNotFoundError:
            self._drop(name)
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
            self._drop(name)
            total -= found.st_size

    def _refresh(self) -> list[tuple[str, os.stat_result]]:
        """Learn of entries that others have written or removed. Returns all files that take up room."""
        files = list(self._files())
        names = {name for name, _ in files}
        for name in self._entries.keys() - names:
            self._drop(name)
        for name in names - self._entries.keys():
            with suppress(FileNotFoundError):
                self._learn(name)
        return files

    def _learn(self, name: str) -> None:
        read = read_tokens(self.folder / name)
        if read is None:
            self._discard(name)
        elif read[0].fingerprint == self._fingerprint:
            self._add(_Entry(name=name, owner=read[0].owner, tokens=read[1]))

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        """The entries. Drafts that nobody will finish are removed."""
        with os.scandir(self.folder) as listed:
            for file in listed:
                with suppress(OSError):
                    found = file.stat(follow_symlinks=False)
                    if OURS.fullmatch(file.name) and stat.S_ISREG(found.st_mode):
                        yield file.name, found
                    elif file.name.endswith(ENDING):
                        self._leave_alone(file.name)
                    elif file.name.endswith(DRAFT) and time.time() - found.st_mtime > _STALE_S:
                        remove(self.folder / file.name)

    def _leave_alone(self, name: str) -> None:
        if name not in self._strange:
            self._strange.add(name)
            _log.warning("the prefix cache in %s leaves %r alone: it is not its own", self.folder, name)

    def _discard(self, name: str) -> None:
        _log.warning("the prefix cache in %s removes %r: it is damaged", self.folder, name)
        with suppress(OSError):
            remove(self.folder / name)

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
        try:
            create(draft, secrets.token_bytes(_KEY_BYTES))
            with suppress(FileExistsError):
                os.link(draft, path)
        finally:
            with suppress(OSError):
                remove(draft)


def _no_folder(folder: str, why: str | None) -> ConfigError:
    return ConfigError(
        f"prefix_cache_dir is {folder!r}, where no folder can be: {why}", hint="set it to a folder of your own"
    )
