"""A changed config is taken up whole or not at all, and running requests end where they began."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foreshore.backend import collect
from foreshore.config import Config, load_config
from foreshore.errors import RoutingError, SetupError, Unavailable
from foreshore.router.label import Caller
from foreshore.router.reload import Watcher
from foreshore.router.router import Router
from foreshore.testing import FakeBackend
from foreshore.types import Chunk, Request, Usage
from tests.router.serving import PATIENCE_S

STOP = Chunk(finish_reason="stop", usage=Usage(prompt_tokens=1, completion_tokens=1))
ASK = Request(messages=({"role": "user", "content": "hi"},))


def write(file: Path, model: str, rest: str = "") -> None:
    ledger = file.with_suffix(".sqlite")
    file.write_text(
        f"targets:\n  edge: {{kind: local, model: {model}}}\n  spare: {{kind: local, model: same}}\n"
        f"ledger: {{path: {ledger}}}\n{rest}"
    )


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what we wait for tells nobody
            await asyncio.sleep(0.01)


class Loads(FakeBackend):
    """A fake with something to load."""

    broken = False

    async def start(self) -> None:
        if self.broken:
            raise Unavailable("cannot load", target=self.name)


def test_a_running_request_ends_on_its_own_target_and_the_next_uses_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "foreshore.yaml"
    write(file, "old")

    async def run() -> None:
        go_on = asyncio.Event()
        given = {"edge": FakeBackend([Chunk(text="old"), go_on, STOP], name="edge"), "spare": FakeBackend(name="spare")}
        router = Router(load_config(file), backends=given)
        old = router.loaded.targets
        stream = router.stream(ASK)
        assert (await anext(stream)).text == "old"

        new = router._given["edge"] = FakeBackend("new", name="edge")
        write(file, "new")
        await Watcher(router, file).check(force=True)
        assert router.loaded.targets["spare"] is old["spare"]
        assert (await collect(router, ASK)).text == "new"
        assert not given["edge"].closed

        go_on.set()
        assert [c.finish_reason async for c in stream][-1] == "stop"
        await eventually(lambda: given["edge"].closed)
        await router.close()
        assert new.closed

    asyncio.run(run())


def test_a_request_between_two_attempts_keeps_its_targets_open(tmp_path: Path) -> None:
    file = tmp_path / "foreshore.yaml"
    write(file, "old")

    async def run() -> None:
        go_on = asyncio.Event()
        gone: list[Chunk | BaseException | asyncio.Event] = [go_on, Unavailable("gone", target="edge")]
        given = {"edge": FakeBackend(gone, name="edge"), "spare": FakeBackend("spare", name="spare")}
        router = Router(load_config(file), backends=given)
        asking = asyncio.create_task(collect(router, ASK))
        await eventually(lambda: given["edge"].running == 1)

        router._given = {name: FakeBackend("new", name=name) for name in given}
        file.write_text(file.read_text().replace("same", "other"))
        await Watcher(router, file).check(force=True)
        for _ in range(10):
            await asyncio.sleep(0)  # the retired target's closing gets its turn
        go_on.set()
        assert (await asking).text == "spare"
        await eventually(lambda: given["spare"].closed)
        await router.close()

    asyncio.run(run())


def test_a_private_tenant_stays_private_when_a_reload_drops_it_before_its_body_has_come(tmp_path: Path) -> None:
    file = tmp_path / "foreshore.yaml"
    file.write_text(
        f"targets: {{cloud: {{kind: openai, model: big, base_url: 'http://127.0.0.1:9/v1'}}}}\n"
        f"ledger: {{path: {file.with_suffix('.sqlite')}}}\n"
    )

    async def run() -> None:
        router = Router(load_config(file), backends={"cloud": FakeBackend(name="cloud")})
        admitted = Caller(tenant="clinic", private=True)
        with pytest.raises(RoutingError, match="private"):
            await router.open(ASK, admitted)
        await router.close()

    asyncio.run(run())


def test_a_wrong_config_is_reported_and_the_last_good_one_stays(tmp_path: Path) -> None:
    file = tmp_path / "foreshore.yaml"
    write(file, "old")

    async def run() -> None:
        given: dict[str, Any] = {"edge": Loads("fine", name="edge"), "spare": FakeBackend(name="spare")}
        router = Router(load_config(file), backends=given)
        watcher = Watcher(router, file)
        loaded = router.loaded
        for wrong in (
            "ruels: []",
            "rules: [{name: r, when: 'request.nothing', prefer: [edge]}]",
            "limits: {attempts: 0}",
        ):
            write(file, "old", wrong)
            await watcher.check()
            assert router.loaded is loaded
            assert router.config_error
        file.unlink()
        await watcher.check()
        assert "cannot read" in router.config_error
        Loads.broken = True
        given["edge"] = router._given["edge"] = Loads("fine", name="edge")
        write(file, "new")
        await watcher.check()
        assert router.loaded is loaded
        assert router.config_error == "cannot load"
        Loads.broken = False
        router._given["edge"] = Loads("fine", name="edge")
        await watcher.check(force=True)
        assert router.loaded is not loaded
        assert router.config_error == ""
        await router.close()

    asyncio.run(run())


def test_what_a_new_config_needs_is_made_before_it_is_taken_up(tmp_path: Path) -> None:
    file = tmp_path / "foreshore.yaml"
    write(file, "old")
    seen: list[tuple[Config, bool]] = []

    async def run() -> None:
        router = Router(load_config(file), backends={name: FakeBackend(name=name) for name in ("edge", "spare")})
        loaded = router.loaded

        def prepare(config: Config) -> None:
            seen.append((config, router.loaded is loaded))
            if len(seen) == 1:
                raise SetupError("it cannot be built")

        watcher = Watcher(router, file, prepare=prepare)
        write(file, "new")
        await watcher.check()
        assert router.loaded is loaded
        assert router.config_error == "it cannot be built"
        await watcher.check(force=True)
        assert router.loaded is not loaded
        assert [before for _, before in seen] == [True, True]
        assert router.loaded.config.targets == seen[-1][0].targets
        await router.close()

    asyncio.run(run())


def test_the_watcher_sees_a_change_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "foreshore.yaml"
    write(file, "old")

    async def run() -> None:
        given = {name: FakeBackend(name, name=name) for name in ("edge", "spare")}
        router = Router(load_config(file), backends=given)
        watching = asyncio.create_task(Watcher(router, file, every=0.01).run())
        before = router.loaded.digest
        write(file, "old", "default: [spare]")
        await eventually(lambda: router.loaded.digest != before)
        assert (await collect(router, ASK)).text == "spare"
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await router.close()

    asyncio.run(run())
