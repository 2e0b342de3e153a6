"""Embed a model in a FastAPI application: one worker, loaded at startup, shared by all requests.

FORESHORE_MODEL=starter-s:q4_k_m uvicorn --app-dir examples embed_fastapi:app

curl -d '{"text": "What is 2 + 3?"}' -H 'content-type: application/json' localhost:8000/ask
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from foreshore.edge import AsyncRuntime
from foreshore.errors import ForeshoreError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncRuntime(os.environ.get("FORESHORE_MODEL", "starter-s:q4_k_m")) as runtime:
        app.state.runtime = runtime
        yield


app = FastAPI(lifespan=lifespan)


class Question(BaseModel):
    text: str


@app.post("/ask")
async def ask(question: Question, request: Request) -> dict[str, str]:
    answer = await request.app.state.runtime.chat(question.text, max_tokens=64, temperature=0)
    return {"answer": answer.text}


@app.post("/stream")
async def stream(question: Question, request: Request) -> StreamingResponse:
    """When the client leaves, Starlette closes the iterator, and the work behind it stops within a step."""

    async def text() -> AsyncIterator[str]:
        async for chunk in request.app.state.runtime.stream_chat(question.text, max_tokens=64):
            yield chunk.text

    return StreamingResponse(text(), media_type="text/plain")


@app.exception_handler(ForeshoreError)
async def explain(request: Request, error: ForeshoreError) -> JSONResponse:
    return JSONResponse(error.to_openai(), status_code=error.status)
