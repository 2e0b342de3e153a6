"""A real gateway on a real socket, in a thread of its own, over the fakes a test gives it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import uvicorn

from foreshore.backend import Backend
from foreshore.cli.serve import bind
from foreshore.config import Config, parse_config
from foreshore.router.gateway import create_app
from foreshore.router.router import Router
from foreshore.testing import FakeBackend
from foreshore.types import Chunk, ToolCallDelta, Usage

PATIENCE_S = 30.0
TWO_CALLS = (  # one call's arguments come in two pieces, with the other call between
    Chunk(tool_calls=(ToolCallDelta(index=0, id="call_a", name="add", arguments='{"a"'),)),
    Chunk(tool_calls=(ToolCallDelta(index=1, id="call_b", name="add"),)),
    Chunk(tool_calls=(ToolCallDelta(index=0, arguments=":1}"), ToolCallDelta(index=1, arguments="{}"))),
)
TWO_TARGETS = """
targets:
  edge: {kind: local, model: "tiny:q8_0"}
  cloud: {kind: openai, model: big, base_url: "http://127.0.0.1:9/v1", price: {input: 1.0, output: 2.0}}
"""


def config_of(text: str, ledger: Path) -> Config:
    """The config in `text`, its ledger in the test's own folder."""
    found = parse_config(text)
    return found.model_copy(update={"ledger": found.ledger.model_copy(update={"path": ledger})})


def hello(usage: Usage) -> FakeBackend:
    """Answers "Hello" in two pieces."""
    return FakeBackend([Chunk(text="Hel"), Chunk(text="lo"), Chunk(finish_reason="stop", usage=usage)], name="edge")


class Served:
    """`url`, the `router` behind it, and clients that are closed with it."""

    def __init__(self, url: str, router: Router, loop: asyncio.AbstractEventLoop) -> None:
        self.url, self.router, self.loop = url, router, loop
        self.http = httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE_S)
        self._clients = ExitStack()
        self._clients.enter_context(self.http)

    def openai(self, key: str = "unused") -> openai.OpenAI:
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)
        return self._clients.enter_context(client)

    def anthropic(self, key: str = "unused") -> anthropic.Anthropic:
        client = anthropic.Anthropic(base_url=self.url, api_key=key, max_retries=0)
        return self._clients.enter_context(client)

    def close(self) -> None:
        self._clients.close()

    def chat(self, text: str = "hi", *, headers: Mapping[str, str] | None = None, **body: Any) -> httpx.Response:
        whole = {"model": "auto", "messages": [{"role": "user", "content": text}], **body}
        return self.http.post("/v1/chat/completions", json=whole, headers=headers)

    def call(self, work: Any) -> Any:
        """The result of a coroutine, run where the gateway runs."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE_S)


@contextmanager
def serving_edge(fake: FakeBackend, ledger: Path) -> Iterator[Served]:
    """`fake` is the one target, `edge`, and is tried once."""
    config = config_of("targets: {edge: {kind: local, model: tiny}}\nlimits: {attempts: 1}", ledger)
    with serving(config, {"edge": fake}) as found:
        yield found


@contextmanager
def serving(config: Config, backends: Mapping[str, Backend]) -> Iterator[Served]:
    """Listens inside the context; everything has ended when it is left."""
    listener = bind("127.0.0.1", 0)
    router = Router(config, backends=backends)
    server = uvicorn.Server(
        uvicorn.Config(create_app(config, router=router), lifespan="off", log_level="error", access_log=False)
    )
    started: list[asyncio.AbstractEventLoop] = []
    running = threading.Event()

    async def run() -> None:
        started.append(asyncio.get_running_loop())
        await router.start()
        running.set()
        await server.serve(sockets=[listener])
        await router.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert running.wait(PATIENCE_S)
    served = Served(f"http://127.0.0.1:{listener.getsockname()[1]}", router, started[0])
    try:
        yield served
    finally:
        served.close()
        server.should_exit = True
        thread.join(PATIENCE_S)
        listener.close()
        assert not thread.is_alive()
