"""From what went wrong to an HTTP response, in the shape that the door's clients know."""

from __future__ import annotations

import math
import traceback
from typing import Any

from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import Request as HTTPRequest

from foreshore.errors import ForeshoreError
from foreshore.router.api.doors import ANTHROPIC
from foreshore.router.api.messages_events import error_json
from foreshore.telemetry import logger

__all__ = ["defect", "on_error", "on_http_error"]


def defect(error: Exception) -> ForeshoreError:
    """Logged by type and place alone: its message may hold content."""
    logger.error("%s in the gateway\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
    return ForeshoreError("something went wrong inside the gateway", hint="its log has more")


async def on_error(http: HTTPRequest, error: Exception) -> Response:
    assert isinstance(error, ForeshoreError)
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else {}
    if (decision := getattr(http.state, "decision", None)) is not None:
        headers["x-foreshore-decision"] = decision
    if (wait := getattr(error, "retry_after", None)) is not None:
        headers["retry-after"] = str(max(1, math.ceil(wait)))
    body = error_json(error) if _of_anthropic(http) else error.to_openai()
    return JSONResponse(body, status_code=error.status, headers=headers)


async def on_http_error(http: HTTPRequest, error: Exception) -> Response:
    """A path or method that does not exist, in the same shapes."""
    assert isinstance(error, HTTPException)
    message = f"{http.method} {http.url.path[:200]}: {error.detail}"
    body: dict[str, Any] = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
    if _of_anthropic(http):
        body = {"type": "error", "error": {"type": "not_found_error", "message": message}}
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


def _of_anthropic(http: HTTPRequest) -> bool:
    path = http.url.path
    return path == ANTHROPIC or path.startswith(f"{ANTHROPIC}/")
