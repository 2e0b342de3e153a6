"""Things to be started and closed, as contexts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

__all__ = ["Scoped"]


class Scoped(ABC):
    """Entering starts it, leaving closes it; so does a start that fails or is interrupted."""

    @abstractmethod
    def start(self) -> object: ...

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
