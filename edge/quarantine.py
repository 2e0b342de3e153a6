"""Requests that were running when a worker crashed or hung: after the second time they are not tried again."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass

__all__ = ["Quarantine"]

DEATHS = 2
KEEP_S = 3600.0  # since its last death: a new build, or more memory, may have mended the cause
REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class _Record:
    deaths: int
    last: float


class Quarantine:
    """Remembers by a key of the whole request, so that one that merely looks alike is served.

    Of several requests that ran in a dead worker, those that were there the time before are blamed alone.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def deaths(self, key: str) -> int:
        """In how many workers that ended badly it was running lately."""
        if not self._records:  # nearly always: no lock on the request's path
            return 0
        with self._lock:
            record = self._fresh(key)
            return 0 if record is None else record.deaths

    def holds(self, key: str) -> bool:
        return self.deaths(key) >= DEATHS

    @property
    def held(self) -> int:
        """How many requests are refused by now."""
        with self._lock:
            records = [self._fresh(key) for key in [*self._records]]
            return sum(record is not None and record.deaths >= DEATHS for record in records)

    def blame(self, keys: Collection[str]) -> None:
        """A worker died with these running."""
        with self._lock:
            known = {key for key in keys if self._fresh(key) is not None}
            for key in known or keys:
                before = self._records.pop(key, None)
                self._records[key] = _Record(1 if before is None else before.deaths + 1, self._clock())
            while len(self._records) > REMEMBERED:
                self._records.popitem(last=False)

    def absolve(self, key: str) -> None:
        """It ended well."""
        if self._records:
            with self._lock:
                self._records.pop(key, None)

    def clear(self) -> None:
        with self._lock:
            self._records.clear()

    def _fresh(self, key: str) -> _Record | None:
        record = self._records.get(key)
        if record is not None and self._clock() - record.last > KEEP_S:
            del self._records[key]
            return None
        return record
