"""POST /v1/feedback: what a caller says of an answer it got. Body: `decision`, and `correct` or `score`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, ValidationError
from starlette.requests import Request as HTTPRequest

from foreshore.config import Tenant
from foreshore.errors import BadRequest
from foreshore.reliability.feedback import give
from foreshore.reliability.ledger import Ledger
from foreshore.router.api.body import parse_json, read_body

__all__ = ["FeedbackBody", "endpoint"]

LIMIT = 4096  # bytes
FLUSH_S = 2.0  # the answer's own event may still be on its way to the disk


class FeedbackBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    decision: str  # the x-foreshore-decision header of the answer
    correct: StrictBool | None = None
    score: Annotated[StrictFloat | StrictInt, Field(ge=0, le=1)] | None = None  # 0, wrong, to 1, right

    def value(self) -> float:
        """The score. Raises `BadRequest` unless exactly one of the two ways to say it was used."""
        if (self.correct is None) == (self.score is None):
            raise BadRequest("feedback says either 'correct' or 'score'", param="correct")
        return float(self.score if self.score is not None else bool(self.correct))


def endpoint(ledger: Ledger, admit: Callable[[HTTPRequest], Tenant]) -> Any:
    """The handler. A tenant speaks of its own requests alone; all others are unknown to it."""

    async def handle(http: HTTPRequest) -> Response:
        tenant = admit(http)
        raw = await read_body(http.stream(), limit=LIMIT, declared=http.headers.get("content-length"))
        body = _parsed(raw, http.headers.get("content-type"))
        score = body.value()
        await asyncio.to_thread(ledger.flush, FLUSH_S)
        found = await asyncio.to_thread(give, ledger.file, body.decision, score, tenant=tenant.name)
        return JSONResponse({"decision": found.decision_id, "score": found.score, "source": found.source})

    return handle


def _parsed(raw: bytes, content_type: str | None) -> FeedbackBody:
    try:
        return FeedbackBody.model_validate(parse_json(raw, content_type))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise BadRequest(f"{name}: {first['msg']}", param=name) from error
