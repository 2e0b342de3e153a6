"""The one promise: a private request never reaches a cloud target, whatever the config says and whatever fails."""

from __future__ import annotations

import ast
import asyncio
import tempfile
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import foreshore
from foreshore.backend import collect
from foreshore.config import Config
from foreshore.errors import ForeshoreError, Overloaded, RoutingError, Unavailable, UpstreamError, WorkerDied
from foreshore.policy_config import PolicyName
from foreshore.router.label import Caller
from foreshore.router.router import Router
from foreshore.testing import FakeBackend
from foreshore.types import Chunk, Request

EXPRESSIONS = ["true", "false", "request.private", "!request.private", "request.headers['x-none'] == 'a'",
               "request.text.contains('@')", "request.labels.exists(l, l == 'email')"]  # fmt: skip
REQUIREMENTS = ["true", "!target.local", "target.name == 'cloud'", "request.private", "target.healthy"]
NAMES = ["edge", "cloud", "far"]
SPECS = {
    "edge": {"kind": "local", "model": "tiny"},
    "cloud": {"kind": "openai", "model": "big", "base_url": "http://127.0.0.1:9/v1"},
    "far": {"kind": "openai", "model": "tiny", "base_url": "http://127.0.0.1:9/v1"},
}


ACTIONS: st.SearchStrategy[dict[str, Any]] = st.sampled_from([
    {}, {"where": "!target.local"}, {"objective": {"seconds": 1}, "where": "target.loaded"},
    {"strategy": "cascade", "confidence": 0.9}, {"deadline": 5},
])  # fmt: skip


def limits_for(order: st.SearchStrategy[list[str]]) -> st.SearchStrategy[dict[str, Any]]:
    """What a constraint does."""
    require = st.sampled_from(REQUIREMENTS).map(lambda source: {"require": source})
    return require | order.map(lambda names: {"allow": names}) | order.map(lambda names: {"forbid": names})


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    when = st.sampled_from(EXPRESSIONS)
    with_edge = draw(st.booleans())
    names = NAMES if with_edge else NAMES[1:]
    order = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)
    return {
        "targets": {name: SPECS[name] for name in names},
        "rules": [
            {"name": f"r{i}", "when": draw(when), "prefer": draw(order), **draw(ACTIONS)}
            for i in range(draw(st.integers(0, 3)))
        ],
        "constraints": [
            {"name": f"c{i}", "when": draw(when), **draw(limits_for(order))} for i in range(draw(st.integers(0, 2)))
        ],
        "policy": draw(st.lists(st.sampled_from(get_args(PolicyName)), max_size=2, unique=True)),
        "learning": {"explore": draw(st.sampled_from([0.0, 0.2]))},
        "device": {"probe": False},
        "default": draw(order),
        "privacy": {"detectors": draw(st.sampled_from([[], ["email"], ["email", "card"]]))},
        "limits": {"attempts": draw(st.integers(1, 4))},
        "tenants": [{"name": "secretive", "key_env": "TEST_TENANT_KEY", "private": True}],
    }


def failing() -> st.SearchStrategy[list[Any]]:
    errors: list[Any] = [
        Unavailable("down", target="edge"), Overloaded("full", target="edge", retry_after=0.001),
        UpstreamError("odd", target="edge"), WorkerDied("died", target="edge"), ValueError("a defect"),
    ]  # fmt: skip
    before = st.sampled_from([[], [Chunk(text="part")], [Chunk()]])
    return st.builds(lambda b, e: [*b, e], before, st.sampled_from(errors)) | st.just([*FakeBackend("fine").script])


PRIVATE_WAYS: list[tuple[dict[str, Any], Caller]] = [
    ({"content": "hi"}, Caller(headers={"x-foreshore-privacy": "private"})),
    ({"content": "hi"}, Caller(tenant="secretive")),
    ({"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}, Caller()),
]


@pytest.fixture(autouse=True, scope="module")
def _key() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_TENANT_KEY", "k" * 20)
        yield


@settings(max_examples=60, deadline=None)
@given(
    configs(),
    failing(),
    st.sampled_from(PRIVATE_WAYS),
    st.sampled_from(["auto", "", "edge", "cloud", "far", "tiny", "big"]),
)
def test_a_private_request_never_reaches_a_cloud(
    raw: dict[str, Any], edge_script: list[Any], way: tuple[dict[str, Any], Caller], model: str
) -> None:
    async def run(folder: str) -> None:
        config = Config.model_validate({**raw, "ledger": {"path": f"{folder}/l.sqlite"}})
        fakes = {name: FakeBackend(edge_script if name == "edge" else "cloud says", name=name) for name in NAMES}
        router = Router(config, backends=fakes)
        message, caller = way
        request = Request(model=model, messages=({"role": "user", **message},))
        try:
            exchange = await router.open(request, caller)
            async for _ in exchange.stream():
                pass
        except (ForeshoreError, ValueError):
            pass
        finally:
            await router.close()
        assert fakes["cloud"].requests == []
        assert fakes["far"].requests == []

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(folder))


def test_the_detector_alone_keeps_it_local_and_a_public_request_shows_that_the_cloud_was_there(tmp_path: Path) -> None:
    config = Config.model_validate(
        {"targets": SPECS, "default": ["cloud", "edge"], "ledger": {"path": str(tmp_path / "l.sqlite")}}
    )

    async def run() -> tuple[int, int]:
        fakes = {name: FakeBackend(name, name=name) for name in NAMES}
        router = Router(config, backends=fakes)
        for text in ("write to jane@example.com", "hello"):
            await collect(router, Request(messages=({"role": "user", "content": text},)))
        await router.close()
        return len(fakes["edge"].requests), len(fakes["cloud"].requests)

    assert asyncio.run(run()) == (1, 1)


def test_with_the_local_target_down_it_is_refused(tmp_path: Path) -> None:
    config = Config.model_validate(
        {"targets": SPECS, "limits": {"attempts": 1}, "ledger": {"path": str(tmp_path / "l.sqlite")}}
    )

    async def run() -> None:
        fakes = {name: FakeBackend([Unavailable("down", target=name)], name=name) for name in NAMES}
        router = Router(config, backends=fakes)
        with pytest.raises(Unavailable):
            await collect(router, Request(messages=({"role": "user", "content": "jane@example.com"},)))
        with pytest.raises(RoutingError) as caught:
            await collect(router, Request(model="cloud", messages=({"role": "user", "content": "jane@example.com"},)))
        assert "private" in caught.value.message
        assert "jane" not in caught.value.message
        await router.close()

    asyncio.run(run())


def test_only_the_constraint_stage_grants_clearances() -> None:
    root = Path(foreshore.__file__).parent
    callers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if path.name != "clearance.py" and "grant" in _names(ast.parse(path.read_text("utf-8")))
    }
    for part in ("cloud", "edge", "quantize", "reliability", "router"):  # linked folders: rglob does not follow links
        for path in (root / part).glob("*.py"):
            if "grant" in _names(ast.parse(path.read_text("utf-8"))):
                callers.add(f"{part}/{path.name}")
    assert callers == {"router/constrain.py"}


def _names(tree: ast.AST) -> set[str]:
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    found |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return found | {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
