"""A table that keeps what was used last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Recent"]

MOST = 512
Cell = TypeVar("Cell")


class Recent(Generic[Cell]):
    """Cells by (route, tenant), at most `MOST`: the one unused for longest goes."""

    def __init__(self, make: Callable[[], Cell]) -> None:
        self._make = make
        self._cells: OrderedDict[tuple[str, str], Cell] = OrderedDict()

    def get(self, route: str, tenant: str) -> Cell | None:
        """Does not count as use: predictions are made far more often than learned from."""
        return self._cells.get((route, tenant))

    def use(self, route: str, tenant: str) -> Cell:
        """Made if it is not there."""
        key = (route, tenant)
        found = self._cells.get(key)
        if found is None:
            found = self._cells[key] = self._make()
            if len(self._cells) > MOST:
                self._cells.popitem(last=False)
        else:
            self._cells.move_to_end(key)
        return found
