"""Who may hold how many tokens of the KV cache."""

from __future__ import annotations

__all__ = ["KvLedger"]


class KvLedger:
    """Reservations that together never pass `capacity` tokens."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._held: dict[str, int] = {}
        self.used = 0

    def fits(self, tokens: int) -> bool:
        return self.used + tokens <= self.capacity

    def reserve(self, owner: str, tokens: int) -> None:
        """Raises `ValueError` where it does not fit, or `owner` holds something already."""
        if owner in self._held or not self.fits(tokens):
            raise ValueError(f"{owner!r} cannot have {tokens} tokens: {self.used} of {self.capacity} are taken")
        self._held[owner] = tokens
        self.used += tokens

    def release(self, owner: str) -> None:
        """Give back all that `owner` holds; harmless if that is nothing."""
        self.used -= self._held.pop(owner, 0)
