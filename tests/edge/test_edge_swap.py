"""Several models in workers of their own, and one that takes another's place, with real workers under load."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from foreshore.backend import Answer, collect
from foreshore.edge import EngineOptions, LocalBackend
from foreshore.edge.pool import Pool
from foreshore.errors import DeadlineExceeded, ModelError, SetupError, Unavailable
from foreshore.types import Request, Sampling
from tests.edge.test_edge_worker import PATIENCE_S, until
from tests.tiny_model import write_decoder

OPTIONS = EngineOptions(threads=1, slots=4, context_tokens=256, batch_tokens=64)


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models that answer differently."""
    folder = tmp_path_factory.mktemp("variants")
    return [write_decoder(folder / f"{seed}.gguf", seed=seed) for seed in (1, 2)]


def ask(max_tokens: int = 8, **fields: Any) -> Request:
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
    return Request(task="completion", prompt="hello", sampling=sampling, extra={"ignore_eos": True}, **fields)


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(3 * PATIENCE_S):
            await work

    asyncio.run(bounded())


@asynccontextmanager
async def backends(pool: Pool, *models: Path, **fields: Any) -> AsyncIterator[list[LocalBackend]]:
    async with AsyncExitStack() as stack:
        opened = [LocalBackend(model, name=model.stem, options=OPTIONS, pool=pool, **fields) for model in models]
        for backend in opened:
            stack.push_async_callback(backend.close)
        yield opened


async def flood(backend: LocalBackend, count: int, at_a_time: int) -> list[Answer]:
    turn = asyncio.Semaphore(at_a_time)

    async def one(i: int) -> Answer:
        async with turn:
            return await collect(backend, ask(8 + i % 24))

    return list(await asyncio.gather(*(one(i) for i in range(count))))


@pytest.mark.parametrize("models", [None, 1], ids=["beside", "one after the other"])
def test_no_request_fails_while_a_variant_is_swapped(variants: list[Path], models: int | None) -> None:
    async def scenario() -> None:
        pool = Pool(models=models)
        async with backends(pool, variants[0]) as [backend]:
            texts = {path: (await collect(backend, ask())).text for path in variants[:1]}
            load = asyncio.create_task(flood(backend, 200, 6))
            for i in range(5):
                before = backend.pid
                info = await backend.swap(variants[(i + 1) % 2])
                assert info.name == "tiny"
                assert backend.pid != before
            answers = await load
            assert len(answers) == 200
            assert all(a.finish_reason == "length" for a in answers)
            assert all(a.usage is not None and a.usage.completion_tokens == 8 + i % 24 for i, a in enumerate(answers))
            assert backend.model == str(variants[1])
            assert (await collect(backend, ask())).text != texts[variants[0]]
            await until(lambda: not backend._retired, "the old workers have ended")

    run(scenario())


def test_a_running_stream_ends_on_the_old_variant_and_the_next_one_begins_on_the_new(variants: list[Path]) -> None:
    async def scenario() -> None:
        async with backends(Pool(), variants[0]) as [backend]:
            whole = (await collect(backend, ask(200))).text
            async with aclosing(backend.stream(ask(200))) as stream:  # type: ignore[type-var]
                text = (await anext(stream)).text
                await backend.swap(variants[1])
                other = (await collect(backend, ask(200))).text
                text += "".join([chunk.text async for chunk in stream])
            assert text == whole
            assert other != whole

    run(scenario())


def test_a_swap_that_cannot_load_leaves_all_as_it_was(variants: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(variants[0].read_bytes()[:5000])

    async def scenario() -> None:
        async with backends(Pool(models=1), variants[0]) as [backend]:
            before = await collect(backend, ask())
            worker = backend.pid
            with pytest.raises(ModelError, match=r"broken\.gguf"):
                await backend.swap(broken)
            assert backend.pid == worker
            assert (await collect(backend, ask())).text == before.text

    run(scenario())


def test_a_backend_that_replaces_another_takes_over_while_that_one_is_asked(variants: list[Path]) -> None:
    """As a reload does it: the new target is started, while requests still come to the old one."""

    async def scenario() -> None:
        pool = Pool(models=1)
        async with backends(pool, variants[0]) as [old]:
            await old.start()
            load = asyncio.create_task(flood(old, 60, 4))
            new = LocalBackend(variants[1], name="new", options=OPTIONS, pool=pool, replaces=old)
            try:
                await new.start()
                text = (await collect(new, ask())).text
                assert (await collect(old, ask())).text == text, "the old one passes new requests on"
                assert len(await load) == 60
            finally:
                await new.close()
            assert (await collect(old, ask())).text != text, "without its successor it loads again"

    run(scenario())


def test_who_waits_for_a_successor_can_still_leave(variants: list[Path]) -> None:
    async def scenario() -> None:
        pool = Pool(models=1)
        async with backends(pool, *variants) as [old, busy]:
            await old.start()
            async with aclosing(busy.stream(ask(240))) as stream:  # type: ignore[type-var]
                await anext(stream)  # the old one has given its room to a third
                new = LocalBackend(variants[1], name="new", options=OPTIONS, pool=pool, replaces=old)
                swapping = asyncio.create_task(new.start())
                await until(lambda: busy._seat.place.gone is not None, "the successor waits for room")
                waiting = asyncio.create_task(collect(old, ask()))
                await until(lambda: old._seat.heir is not None, "requests go to the successor")
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                with pytest.raises(DeadlineExceeded):
                    await collect(old, ask(deadline=time.monotonic() + 0.05))
                async for _ in stream:
                    pass
            await swapping
            assert (await collect(old, ask())).finish_reason == "length"
            await new.close()

    run(scenario())


def test_two_models_that_do_not_fit_together_take_turns(variants: list[Path]) -> None:
    async def scenario() -> None:
        async with backends(Pool(models=1), *variants) as [first, second]:
            answers = await asyncio.gather(*(collect((first, second)[i % 2], ask(32)) for i in range(12)))
            assert {a.text for a in answers[::2]} != {a.text for a in answers[1::2]}
            assert sorted([first.state, second.state]) == ["idle", "ready"]

    run(scenario())


def test_concurrent_first_requests_load_once(variants: list[Path]) -> None:
    async def scenario() -> None:
        async with backends(Pool(), variants[0]) as [backend]:
            before = set(psutil.Process().children())
            await asyncio.gather(*(collect(backend, ask()) for _ in range(20)))
            assert {p.pid for p in set(psutil.Process().children()) - before} == {backend.pid}

    run(scenario())


def test_keep_alive_unloads_after_the_last_request_and_the_next_one_loads_again(variants: list[Path]) -> None:
    async def scenario() -> None:
        async with backends(Pool(), variants[0], keep_alive=0.0) as [backend]:
            first = await collect(backend, ask())
            worker = psutil.Process(backend.pid) if backend.pid else None
            await until(lambda: backend.memory is None, "the model is unloaded")
            assert worker is None or not worker.is_running()
            assert str(backend.state) == "idle"
            assert backend.info is not None, "what it was remains known: the router asks"
            assert (await collect(backend, ask())).text == first.text

    run(scenario())


def test_a_model_that_is_too_large_is_refused_before_a_process_is_started(variants: list[Path]) -> None:
    async def scenario() -> None:
        async with backends(Pool(memory=50 << 20), variants[0]) as [backend]:
            before = psutil.Process().children()
            with pytest.raises(SetupError, match=r"^1 needs \d+ MiB \(weights .*\), 50 MiB is allowed") as caught:
                await collect(backend, ask())
            assert "smaller variant" in str(caught.value.hint)
            assert psutil.Process().children() == before
            assert backend.state == "idle"

    run(scenario())


def test_closing_while_others_wait_for_room_ends_them_with_an_error(variants: list[Path]) -> None:
    async def scenario() -> None:
        async with backends(Pool(models=1), *variants) as [first, second]:
            async with aclosing(first.stream(ask(200))) as stream:  # type: ignore[type-var]
                await anext(stream)
                waiting = asyncio.create_task(collect(second, ask()))
                await until(lambda: first._seat.place.gone is not None, "the second waits for the first")
                await second.close()
                with pytest.raises(Unavailable, match="closed"):
                    await waiting
                assert len([chunk async for chunk in stream]) > 10
            assert (await collect(first, ask())).finish_reason == "length"

    run(scenario())


def test_two_backends_share_one_file(variants: list[Path]) -> None:
    async def scenario() -> None:
        async with backends(Pool(), variants[0], variants[0]) as [first, second]:
            answers = await asyncio.gather(*(collect(b, ask(32)) for b in (first, second, first, second)))
            assert len({a.text for a in answers}) == 1
            assert first.pid != second.pid
            os.kill(first.pid or 0, 9)
            assert (await collect(second, ask(32))).text == answers[0].text
            await until(lambda: first.state == "ready", "the first has a new worker")

    run(scenario())
