"""Text to token ids and back, in llama-server's shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr

from foreshore.router.api.door import Frame, Unstreamed
from foreshore.router.fields import BaseBody
from foreshore.types import Chunk, Request, Task

__all__ = ["Counted", "DetokenizeBody", "TokenizeBody"]

Token = Annotated[StrictInt, Field(ge=0, lt=2**31)]


class TokenizeBody(BaseBody):
    task: ClassVar[Task] = "tokenize"

    model: StrictStr = Field(default="auto", max_length=200)
    content: StrictStr
    add_special: StrictBool | None = None
    parse_special: StrictBool | None = None
    with_pieces: Literal[False] | None = None

    def request(self, raw: Mapping[str, Any]) -> Request:
        options = {"add_special": self.add_special, "parse_special": self.parse_special}
        extra = {**self.extra(), **{k: v for k, v in options.items() if v is not None}}
        return Request(task="tokenize", model=self.model, prompt=self.content, extra=extra)

    def encoder(self, frame: Frame) -> Counted:
        return Counted("tokens")


class DetokenizeBody(BaseBody):
    task: ClassVar[Task] = "detokenize"

    model: StrictStr = Field(default="auto", max_length=200)
    tokens: list[Token] = Field(max_length=1_000_000)

    def request(self, raw: Mapping[str, Any]) -> Request:
        return Request(task="detokenize", model=self.model, prompt=tuple(self.tokens), extra=self.extra())

    def encoder(self, frame: Frame) -> Counted:
        return Counted("content")


class Counted(Unstreamed):
    """The one field that such an answer has: `tokens`, `content`, or how many `input_tokens` there are."""

    def __init__(self, field: Literal["tokens", "content", "input_tokens"]) -> None:
        self._field = field

    def whole(self, chunks: Sequence[Chunk]) -> dict[str, Any]:
        tokens = [token for chunk in chunks for token in chunk.tokens]
        if self._field == "content":
            return {"content": "".join(chunk.text for chunk in chunks)}
        return {"tokens": tokens} if self._field == "tokens" else {"input_tokens": len(tokens)}
