"""The gateway, compatible with OpenAI, Anthropic and llama-server: HTTP in, HTTP out, the router between."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest

from foreshore.backend import Backend
from foreshore.config import Config, Tenant
from foreshore.errors import BadRequest, DeadlineExceeded, ForeshoreError, NotFound, Unauthorized, Unavailable
from foreshore.router.api import feedback as feedback_api
from foreshore.router.api.body import parse_json, read_body
from foreshore.router.api.disconnect import ClientGone, while_connected
from foreshore.router.api.door import Body, Frame
from foreshore.router.api.doors import DOORS
from foreshore.router.api.event_stream import EventStream
from foreshore.router.api.mishap import defect, on_error, on_http_error
from foreshore.router.api.openapi import document
from foreshore.router.exchange import Exchange
from foreshore.router.facts import RequestFacts
from foreshore.router.fields import parse
from foreshore.router.label import Caller
from foreshore.router.router import LARGE, Router
from foreshore.types import Request, new_id

__all__ = ["create_app"]

LONGEST_TIMEOUT = 86_400.0


def create_app(
    config: Config, *, backends: Mapping[str, Backend] | None = None, router: Router | None = None
) -> FastAPI:
    """The gateway as an ASGI app. Its lifespan starts and closes the router, unless one that runs is given.

    Raises `ConfigError` and `SetupError` at once, not at the first request.
    """
    own = router is None
    router = router or Router(config, backends=backends)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if not own:
            yield
            return
        try:
            await router.start()
            yield
        finally:
            await router.close()

    app = FastAPI(title="Foreshore", lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.router = router
    gateway = Gateway(router)
    for path, kind in DOORS.items():
        app.add_route(path, gateway.endpoint(kind), methods=["POST"])
    app.add_route("/v1/feedback", feedback_api.endpoint(router.ledger, gateway.admit), methods=["POST"])
    app.add_route("/v1/models", gateway.models)
    app.add_route("/v1/models/{name:path}", gateway.model)
    app.add_route("/health", gateway.health)
    app.add_route("/healthz", gateway.healthz)
    app.add_route("/readyz", gateway.readyz)
    app.add_route("/metrics", gateway.metrics)
    app.add_route("/openapi.json", gateway.openapi)
    app.add_exception_handler(ForeshoreError, on_error)
    app.add_exception_handler(HTTPException, on_http_error)
    return app


class Gateway:
    """The endpoints over one router."""

    def __init__(self, router: Router) -> None:
        self.router = router

    def endpoint(self, kind: type[Any]) -> Any:
        """The handler for one kind of body."""

        async def handle(http: HTTPRequest) -> Response:
            try:
                return await self.answer(http, kind)
            except ClientGone:
                return Response(status_code=499)  # nobody reads it; the number is for the server's own log
            except ForeshoreError:
                raise
            except asyncio.CancelledError:  # the server ends
                return await on_error(http, Unavailable("the gateway is shutting down"))
            except Exception as error:
                return await on_error(http, defect(error))

        return handle

    async def answer(self, http: HTTPRequest, kind: type[Any]) -> Response:
        arrived = time.monotonic()
        decision_id = http.state.decision = new_id("dec")
        try:
            caller, body, request = await self._read(http, kind, arrived)
        except BaseException as error:
            self.router.refuse(error, RequestFacts(task=kind.task), arrived=arrived, decision_id=decision_id)
            raise
        exchange = await self.router.open(
            request, caller, arrived=arrived, decision_id=decision_id, choices=body.choices
        )
        try:
            if body.streams:
                return await self._begin(http, exchange, body)
            return await while_connected(self._whole(exchange, body), http.receive)
        finally:
            if not body.streams:
                exchange.close()

    async def _read(self, http: HTTPRequest, kind: type[Any], arrived: float) -> tuple[Caller, Body, Request]:
        tenant = self.admit(http)
        limits = self.router.loaded.config.limits
        try:
            async with asyncio.timeout(limits.timeout):
                length = http.headers.get("content-length")
                raw = await read_body(http.stream(), limit=limits.body_bytes, declared=length)
        except ClientDisconnect as error:
            raise ClientGone from error
        except TimeoutError as error:
            raise DeadlineExceeded(f"the body did not come within {limits.timeout:g} s") from error
        content_type = http.headers.get("content-type")
        if len(raw) < LARGE:
            body, request = _parsed(raw, content_type, kind)
        else:  # in a thread, or reading it would hold other requests up
            body, request = await asyncio.to_thread(_parsed, raw, content_type, kind)
        timeout = _timeout(http.headers.get("x-foreshore-timeout"), limits.timeout)
        headers = {name: ", ".join(http.headers.getlist(name)) for name in http.headers}  # RFC 9110, 5.3
        caller = Caller(
            tenant=tenant.name,
            private=tenant.private,
            headers=headers,
            stream=body.streams,
            tier=body.tier,
            body_bytes=len(raw),
        )
        request = replace(request, tenant=tenant.name, deadline=arrived + timeout)
        return caller, body, request

    def admit(self, http: HTTPRequest) -> Tenant:
        """The caller's tenant. Without keys only this machine may ask, and no web page through a name it made up."""
        tenants = self.router.loaded.tenants
        host = http.headers.get("host", "")
        if not tenants.required and not _names_this_machine(host):
            raise Unauthorized(f"the host is {host[:60]!r}", hint="use 127.0.0.1, or give the tenants API keys")
        return tenants.admit(http.headers.get("authorization"), http.headers.get("x-api-key"))

    async def _whole(self, exchange: Exchange, body: Body) -> Response:
        async with aclosing(exchange.stream()) as stream:
            chunks = [chunk async for chunk in stream]
        content = body.encoder(self._frame(exchange)).whole(chunks)
        return JSONResponse(content, headers=_headers(exchange))

    async def _begin(self, http: HTTPRequest, exchange: Exchange, body: Body) -> Response:
        """Waits for the commit point: until then an error has its own status, and the target is not known."""
        stream = exchange.stream()
        try:
            first = await while_connected(anext(stream), http.receive)
        except BaseException:
            await stream.aclose()
            exchange.close()
            raise
        encoder = body.encoder(self._frame(exchange))
        return EventStream(first, stream, exchange, encoder, _headers(exchange))

    def _frame(self, exchange: Exchange) -> Frame:
        spec = self.router.loaded.config.targets.get(exchange.target)
        fixed = "-deterministic" if exchange.request.deterministic else ""
        return Frame(
            model=spec.model if spec is not None else exchange.target,
            fingerprint=f"fs-{exchange.target}{fixed}",
            service_tier=exchange.request.service_tier if spec is not None and spec.local else "default",
        )

    async def models(self, http: HTTPRequest) -> Response:
        self.admit(http)
        names = ["auto", *self.router.loaded.targets]
        return JSONResponse({"object": "list", "data": [_model(name) for name in names]})

    async def model(self, http: HTTPRequest) -> Response:
        self.admit(http)
        name = http.path_params["name"]
        if name != "auto" and name not in self.router.loaded.targets:
            raise NotFound(f"there is no model {name[:100]!r}", param="model")
        return JSONResponse(_model(name))

    async def openapi(self, http: HTTPRequest) -> Response:
        return JSONResponse(document())

    async def health(self, http: HTTPRequest) -> Response:
        """As llama-server has it: `ok` once a model can answer."""
        _, ready = self._states()
        return JSONResponse({"status": "ok" if ready else "not ready"}, status_code=200 if ready else 503)

    def _states(self) -> tuple[dict[str, str], bool]:
        """Of each target, and whether any can answer."""
        states = {name: target.state for name, target in self.router.loaded.targets.items()}
        return states, any(state in ("ready", "idle") for state in states.values())

    async def healthz(self, http: HTTPRequest) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(self, http: HTTPRequest) -> Response:
        """200 while any target can answer. Who may ask is told each target's state, and a refused config."""
        states, ready = self._states()
        body: dict[str, Any] = {"status": "ready" if ready else "not ready"}
        with suppress(Unauthorized):
            self.admit(http)
            body |= {"targets": states, "config": self.router.loaded.digest}
            if self.router.config_error:
                body["config_error"] = self.router.config_error
        return JSONResponse(body, status_code=200 if ready else 503)

    async def metrics(self, http: HTTPRequest) -> Response:
        self.admit(http)
        return PlainTextResponse(self.router.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _parsed(raw: bytes, content_type: str | None, kind: type[Any]) -> tuple[Body, Request]:
    raw_body = parse_json(raw, content_type)
    body: Body = parse(kind, raw_body)
    return body, body.request(raw_body)


def _names_this_machine(host: str) -> bool:
    """Whether a Host header holds a loopback address, not a name that merely begins like one (127.example.org)."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _headers(exchange: Exchange) -> dict[str, str]:
    fixed = {"x-foreshore-deterministic": "true"} if exchange.request.deterministic else {}
    return {
        "x-foreshore-target": exchange.target,
        "x-foreshore-rule": exchange.decision.rule,
        "x-foreshore-decision": exchange.id,
        "x-foreshore-policy": exchange.policy,
        **fixed,
    }


def _timeout(value: str | None, default: float) -> float:
    """Seconds from `x-foreshore-timeout`."""
    if value is None:
        return default
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_TIMEOUT:
        raise BadRequest(f"x-foreshore-timeout is {value[:40]!r}", hint="it takes seconds, more than 0, up to 86400")
    return seconds


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "foreshore"}
