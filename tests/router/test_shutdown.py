"""A server that ends before an answer does cancels its task: who waits for the answer is told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from foreshore.router.gateway import create_app
from foreshore.router.router import Router
from foreshore.testing import FakeBackend
from foreshore.types import Chunk
from tests.router.serving import PATIENCE_S, TWO_TARGETS, config_of

SCOPE: dict[str, Any] = {
    "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": "POST",
    "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions", "query_string": b"",
    "headers": [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")],
    "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
}  # fmt: skip


async def cancelled(ledger: Path, *, stream: bool) -> list[dict[str, Any]]:
    """All that was sent for an answer that began, and whose task was then cancelled as uvicorn does."""
    config, sent = config_of(TWO_TARGETS, ledger), []
    begun = asyncio.Event()

    class Begins(FakeBackend):
        async def stream(self, request: Any) -> Any:
            async for chunk in super().stream(request):
                yield chunk
                begun.set()

    edge = Begins([Chunk(text="Hel"), Chunk(text="lo"), asyncio.Event()], name="edge")
    app = create_app(config, router=Router(config, backends={"edge": edge, "cloud": FakeBackend(name="cloud")}))
    body = {"model": "edge", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    parts = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> Any:
        return parts.pop() if parts else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    task = asyncio.create_task(app(dict(SCOPE), receive, send))
    await begun.wait()
    task.cancel()
    await task
    assert edge.cancelled == 1
    return sent


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_cut_off_by_the_servers_end_says_so(tmp_path: Path, stream: bool) -> None:
    sent = asyncio.run(asyncio.wait_for(cancelled(tmp_path / "l.sqlite", stream=stream), PATIENCE_S))
    assert sent[0]["status"] == (200 if stream else 503)
    assert sent[-1].get("more_body", False) is False
    last = next(m["body"] for m in reversed(sent) if m.get("body"))
    error = json.loads(last.decode().removeprefix("data: "))["error"]
    assert error["message"] == "the gateway is shutting down"
    assert error["code"] == "unavailable"
