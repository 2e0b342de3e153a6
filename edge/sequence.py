"""One request's place in the schedule."""

from __future__ import annotations

from dataclasses import dataclass, field

from foreshore.types import ServiceTier

__all__ = ["Sequence"]


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """`tokens` is the prompt, then what was drawn: its owner appends. The scheduler writes what follows `adapter`."""

    id: str
    tokens: list[int]
    max_tokens: int  # answer tokens it may produce, at least 1
    arrived: float
    deadline: float | None = None
    tenant: str = "default"
    weight: float = 1.0
    tier: ServiceTier = "default"
    deterministic: bool = False
    adapter: str | None = None

    prompt_tokens: int = field(init=False)
    slot: int | None = None  # the engine's sequence id, while it has tokens in the cache or is about to
    admitted: float | None = None
    paused: bool = False  # keeps its tokens in the cache, but another one goes first
    cells: int = 0  # tokens in the cache
    generated: int = 0  # answer tokens so far
    expected: int = 0  # prompt tokens that nobody who came before it will have computed
    shared: int = 0  # prompt tokens that were found in the cache
    parked: int = 0  # how often it lost its place in the cache
    saved: int = 0  # tokens of the state that was saved when it was parked; 0: none was
    recalled: bool = False  # its beginning was looked for in memory and on disk
    draft: tuple[int, ...] = ()  # tokens that may come next, to be checked in one step

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.tokens)

    @property
    def length(self) -> int:
        return self.prompt_tokens + self.generated

    @property
    def todo(self) -> int:
        """Tokens to compute until the next one can be drawn."""
        return self.prompt_tokens + self.generated - self.cells

    @property
    def decodes(self) -> bool:
        return self.generated > 0 and self.prompt_tokens + self.generated - self.cells == 1

    @property
    def left(self) -> int:
        return self.max_tokens - self.generated

    @property
    def cost(self) -> int:
        """The most cache tokens it can come to hold."""
        return self.prompt_tokens + self.max_tokens

    @property
    def exhausted(self) -> bool:
        return self.generated >= self.max_tokens
