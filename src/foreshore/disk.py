"""Writing that survives a crash, and errors of the disk put into words."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from foreshore.errors import SetupError

__all__ = ["disk_errors", "existing", "fsync", "require_space", "sha256", "write_text"]

PIECE = 4 << 20
_FULL = {errno.ENOSPC}
_LIMITED = {errno.EDQUOT, errno.EFBIG}  # there is room, but not for this user
_DENIED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}


def require_space(folder: Path, needed: int) -> None:
    """Raise `SetupError` unless the file system of `folder` has `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise _full(folder, needed, free)


@contextmanager
def disk_errors(folder: Path, needed: int = 0) -> Iterator[None]:
    """Turn a full or forbidden place into a `SetupError`; `needed` is the number of bytes to be written."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _full(folder, needed, shutil.disk_usage(existing(folder)).free) from error
        if error.errno in _LIMITED:
            hint = "look at the limit on file sizes (ulimit -f) and at quotas"
            raise SetupError(f"cannot write to {str(folder)!r}: {error.strerror}", hint=hint) from error
        if error.errno in _DENIED:
            hint = "set FORESHORE_HOME to a folder that you may write to"
            raise SetupError(f"cannot write to {str(folder)!r}: {error.strerror}", hint=hint) from error
        raise


def sha256(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """The file's SHA-256, hexadecimal; `progress` is told the bytes read since the last call."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            if progress:
                progress(len(piece))
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write and flush to the disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def fsync(path: Path) -> None:
    """Flush a file, or a folder's list of entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _full(folder: Path, needed: int, free: int) -> SetupError:
    return SetupError(
        f"the disk of {str(folder)!r} is full: {needed} bytes needed, {free} free",
        hint="free some space (`foreshore models rm REF`), or set FORESHORE_HOME to a folder on a larger disk",
    )


def existing(folder: Path) -> Path:
    """The nearest of `folder` and its parents that is there."""
    return next(p for p in (folder, *folder.parents) if p.exists())
