"""A changed config puts another variant behind a name while requests run, and none of them fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from foreshore.backend import Answer, collect
from foreshore.config import load_config
from foreshore.edge import LocalBackend
from foreshore.router.reload import Watcher
from foreshore.router.router import Router
from foreshore.types import Request, Sampling
from tests.tiny_model import write_decoder

PATIENCE_S = 120.0


def write(file: Path, model: Path, models: int) -> None:
    file.write_text(
        "targets:\n"
        f"  edge: {{kind: local, model: {model}, engine: {{slots: 4, threads: 1, context_tokens: 256}}}}\n"
        f"runtime: {{max_models: {models}}}\n"
        f"ledger: {{path: {file.with_suffix('.sqlite')}}}\n"
    )


async def ask(router: Router, tokens: int) -> Answer:
    sampling = Sampling(max_tokens=tokens, temperature=0.0)
    return await collect(router, Request(task="completion", prompt="hello", sampling=sampling))


@pytest.mark.parametrize("models", [1, 2], ids=["one after the other", "beside"])
def test_a_variant_is_swapped_under_load(tmp_path: Path, models: int) -> None:
    variants = [write_decoder(tmp_path / f"{seed}.gguf", seed=seed, never=("<|im_end|>",)) for seed in (1, 2)]
    file = tmp_path / "foreshore.yaml"

    async def run() -> None:
        write(file, variants[0], models)
        router = Router(load_config(file))
        await router.start()
        watcher = Watcher(router, file)
        first, ended = (await ask(router, 16)).text, asyncio.Event()
        answers: list[Answer] = []

        async def client() -> None:
            while not ended.is_set():
                answers.append(await ask(router, 8 + len(answers) % 20))

        clients = [asyncio.create_task(client()) for _ in range(5)]
        for i in range(3):
            write(file, variants[(i + 1) % 2], models)
            await watcher.check(force=True)
            assert router.config_error == ""
        ended.set()
        await asyncio.gather(*clients)
        assert answers
        assert all(a.finish_reason == "length" for a in answers)
        assert (await ask(router, 16)).text != first
        await asyncio.gather(*router._retired)
        backend = router.loaded.targets["edge"].backend
        assert isinstance(backend, LocalBackend)
        assert backend.pool.reserved == (backend.memory.total if backend.memory else -1), "the old ones are gone"
        await router.close()

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await run()

    asyncio.run(bounded())


def test_a_config_whose_model_does_not_fit_is_refused_and_the_old_one_answers_on(tmp_path: Path) -> None:
    model = write_decoder(tmp_path / "tiny.gguf", never=("<|im_end|>",))
    file = tmp_path / "foreshore.yaml"

    async def run() -> None:
        write(file, model, 2)
        router = Router(load_config(file))
        await router.start()
        before = (await ask(router, 8)).text
        file.write_text(file.read_text().replace("threads: 1", "threads: 2").replace("max_models: 2", "memory: 40 MiB"))
        await Watcher(router, file).check(force=True)
        assert "40 MiB is allowed by runtime.memory" in router.config_error
        assert (await ask(router, 8)).text == before
        backend = router.loaded.targets["edge"].backend
        assert isinstance(backend, LocalBackend)
        assert backend.pool.memory is None, "the old limits hold again"
        await router.close()

    asyncio.run(run())
