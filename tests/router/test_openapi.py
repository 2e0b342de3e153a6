"""The OpenAPI document against the gateway itself: whatever fits it is answered as it says, the rest is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from foreshore.config import Config
from foreshore.router.api.doors import DOORS
from foreshore.router.api.openapi import document
from foreshore.types import Chunk, Request, Usage
from tests.router.serving import Served, serving

USAGE = Usage(prompt_tokens=3, completion_tokens=1)
_OPERATIONS: Any = schemathesis.openapi.from_dict(document()).get_all_operations()
OPERATIONS: Any = {f"{(found := each.ok()).method} {found.path}": found for each in _OPERATIONS}
CHECKS: Any = [status_code_conformance, content_type_conformance, response_schema_conformance]
QUICK = settings(
    max_examples=16, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


class Anything:
    """Answers every task as its contract says."""

    name = "edge"

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        for index, _ in enumerate(request.inputs):
            ranks = request.task == "rerank"
            yield Chunk(index=index, embedding=None if ranks else (0.6, 0.8), score=0.5 if ranks else None)
        if not request.inputs:
            yield Chunk(text="hello")
        yield Chunk(finish_reason="stop", usage=USAGE, tokens=(1, 2) if request.task == "tokenize" else ())

    async def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    ledger = tmp_path_factory.mktemp("openapi") / "l.sqlite"
    config = Config.model_validate(
        {"targets": {"edge": {"kind": "local", "model": "tiny"}}, "ledger": {"path": str(ledger)}}
    )
    with serving(config, {"edge": Anything()}) as found:
        yield found


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False  # no proxy between us and this machine
        yield session


def ask(case: Case[Any], served: Served, session: requests.Session) -> Any:
    if case.headers is not None:
        case.headers.pop("x-foreshore-timeout", None)  # a deadline that has passed is a 504, and rightly so
    if isinstance(case.body, dict) and "decision" not in case.body:
        case.body["model"] = "auto"
    return case.call(base_url=served.url, session=session)


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_fits_the_document_is_answered_as_it_says(name: str, served: Served, session: requests.Session) -> None:
    seen: set[int] = set()

    @seed(7)
    @QUICK
    @given(st.data())
    def run(data: st.DataObject) -> None:
        case = data.draw(OPERATIONS[name].as_strategy(generation_mode=GenerationMode.POSITIVE))
        answer = ask(case, served, session)
        seen.add(answer.status_code)
        assert answer.status_code < 500, answer.text
        case.validate_response(answer, checks=CHECKS)

    run()
    assert (
        404 if "{name}" in name or "feedback" in name else 200
    ) in seen  # what no schema can say may be refused, but not everything


def test_the_document_knows_every_door_and_is_served(served: Served) -> None:
    found = served.http.get("/openapi.json").json()
    assert found == document()
    assert set(DOORS) < set(found["paths"])
    assert found["openapi"] == "3.1.0"


def test_every_stream_is_described_as_one() -> None:
    for path, kind in DOORS.items():
        content = document()["paths"][path]["post"]["responses"]["200"]["content"]
        assert ("text/event-stream" in content) == ("stream" in kind.model_fields)


@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if operation.body])
def test_what_does_not_fit_it_is_refused(name: str, served: Served, session: requests.Session) -> None:
    @seed(7)
    @QUICK
    @given(st.data())
    def run(data: st.DataObject) -> None:
        case = data.draw(OPERATIONS[name].as_strategy(generation_mode=GenerationMode.NEGATIVE))
        answer = case.call(base_url=served.url, session=session)
        assert answer.status_code < 500, answer.text
        case.validate_response(answer, checks=[*CHECKS, negative_data_rejection])

    run()
