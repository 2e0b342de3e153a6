"""The memory of this machine, or of the container that limits us."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

__all__ = ["available", "limit"]

CGROUPS = Path("/sys/fs/cgroup")
_CGROUP_FILES = {2: ("memory.max", "memory.current"), 1: ("memory.limit_in_bytes", "memory.usage_in_bytes")}


def available() -> int:
    """Bytes that a new process can have without pushing others out, in this container if there is one."""
    free = int(psutil.virtual_memory().available)
    for folder, maximum, used in _cgroups():
        ceiling, use = _number(folder / maximum), _number(folder / used)
        if ceiling is not None and use is not None:
            free = min(free, max(0, ceiling - use + _cached(folder / "memory.stat")))
    return free


def limit() -> int:
    """Bytes of memory that this machine, or the container, has in all."""
    total = int(psutil.virtual_memory().total)
    return min([total, *(n for folder, maximum, _ in _cgroups() if (n := _number(folder / maximum)) is not None)])


def _cgroups() -> Iterator[tuple[Path, str, str]]:
    """The folders that limit this process, its own and those around it, with their files for limit and use."""
    try:
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:  # not Linux
        return
    for _, controllers, path in lines:
        version = 1 if "memory" in controllers.split(",") else 2
        if version == 2 and controllers:
            continue
        root = CGROUPS / "memory" if version == 1 else CGROUPS
        own = root / path.lstrip("/")  # in a container the path may be the host's: then only the root is there
        for folder in (own, *own.parents):
            yield folder, *_CGROUP_FILES[version]
            if folder == root:
                break


def _number(path: Path) -> int | None:
    """The number in a cgroup's file; `None` where there is no such file, or no limit."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _cached(stat: Path) -> int:
    """Bytes of a cgroup's use that are cached files, which go when memory is wanted."""
    try:
        found = dict(line.split()[:2] for line in stat.read_text().splitlines())
        return int(found.get("total_inactive_file") or found.get("inactive_file") or 0)
    except (OSError, ValueError):
        return 0
