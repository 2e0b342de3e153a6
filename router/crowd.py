"""The requests that a target has now: how many, and what those have yet to be read that have no first token."""

from __future__ import annotations

__all__ = ["Crowd"]


class Crowd:
    """`here` counts all of them, `unheard` those without a first token."""

    __slots__ = ("_tokens", "here", "unheard")

    def __init__(self) -> None:
        self.here = self.unheard = 0
        self._tokens: dict[str, int] = {}  # prompt tokens of those without a first token, by tenant

    @property
    def running(self) -> int:
        return self.here - self.unheard

    @property
    def tokens(self) -> int:
        """Prompt tokens that are yet to be computed."""
        return sum(self._tokens.values()) if self._tokens else 0

    def tokens_of(self, tenant: str) -> int:
        return self._tokens.get(tenant, 0)

    def wait(self, tenant: str, tokens: int) -> None:
        """One begins to wait for its first token."""
        self.unheard += 1
        self._tokens[tenant] = self._tokens.get(tenant, 0) + tokens

    def hear(self, tenant: str, tokens: int) -> None:
        """It has it, or will never have it."""
        self.unheard -= 1
        self._tokens[tenant] -= tokens
        if not self._tokens[tenant]:
            del self._tokens[tenant]  # tenants come and go
