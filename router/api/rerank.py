"""Reranking in the shape of Jina, Cohere and llama-server: documents ordered by how well they answer a query."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Field, StrictBool, StrictStr

from foreshore.errors import BadRequest, UpstreamError
from foreshore.router.api.answers import input_usage
from foreshore.router.api.door import Frame, Unstreamed
from foreshore.router.fields import BaseBody, Count, Part, Text
from foreshore.types import Chunk, Request, Task

__all__ = ["RerankBody"]

MAX_DOCUMENTS = 2048
Item = TypeVar("Item")
Documents = Annotated[list[Item], Field(min_length=1, max_length=MAX_DOCUMENTS)]


class Document(Part):
    text: Text


class RerankBody(BaseBody):
    task: ClassVar[Task] = "rerank"

    model: StrictStr = Field(default="auto", max_length=200)
    query: Text
    documents: Documents[Text] | Documents[Document]
    top_n: Count | None = None
    return_documents: StrictBool | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(d if isinstance(d, str) else d.text for d in self.documents)

    def request(self, raw: Mapping[str, Any]) -> Request:
        if self.query.isspace():
            raise BadRequest("query is blank", param="query")
        return Request(task="rerank", model=self.model, query=self.query, inputs=self.texts, extra=self.extra())

    def encoder(self, frame: Frame) -> Ranking:
        return Ranking(frame, self)


class Ranking(Unstreamed):
    """The answer to `body`; a reranking is never streamed."""

    def __init__(self, frame: Frame, body: RerankBody) -> None:
        self._model, self._body = frame.model, body

    def whole(self, chunks: Sequence[Chunk]) -> dict[str, Any]:
        """Best first; of equal scores, the one that was sent first."""
        scores = {c.index: c.score for c in chunks if c.score is not None}
        texts = self._body.texts
        if sorted(scores) != list(range(len(texts))) or not all(map(math.isfinite, scores.values())):
            raise UpstreamError(f"the model scored {len(scores)} of {len(texts)} documents, or not by numbers")
        order = sorted(scores, key=lambda index: -scores[index])[: self._body.top_n]
        results = [self._result(index, scores[index], texts[index]) for index in order]
        usage = input_usage(chunks[-1].usage)
        return {"object": "list", "model": self._model, "results": results, "usage": usage}

    def _result(self, index: int, score: float, text: str) -> dict[str, Any]:
        document = {"document": {"text": text}} if self._body.return_documents else {}
        return {"index": index, "relevance_score": score, **document}
