"""One cache for many: what is shared, parked and kept apart leaves every answer as it would be alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from foreshore.backend import Answer, collect
from foreshore.edge import EngineOptions, LocalBackend
from foreshore.errors import BadRequest, ConfigError, ModelError
from foreshore.types import Request, Sampling, ServiceTier
from tests.tiny_model import write_adapter

SYSTEM = "you are a clerk in a small harbour town and answer in short sentences " * 6


NOISE = 0.1  # of log probability: a batch takes sums in another order, and the cache rounds them to 16 bits


def ask(prompt: str, tokens: int = 20, **more: Any) -> Request:
    sampling = Sampling(max_tokens=tokens, temperature=0, logprobs=2)
    return Request(task="completion", prompt=prompt, sampling=sampling, extra={"ignore_eos": True}, **more)


def answers(model: Path, requests: Sequence[Request], *, together: bool, **options: Any) -> tuple[list[Answer], Any]:
    """Their answers, asked together or one after the other, and the load after the last."""

    async def scenario() -> tuple[list[Answer], Any]:
        backend = LocalBackend(model, options=EngineOptions(threads=1, **options))
        try:
            await backend.start()
            if together:
                found = await asyncio.gather(*(collect(backend, r) for r in requests))
            else:
                found = [await collect(backend, r) for r in requests]
            return list(found), backend.load()
        finally:
            await backend.close()

    return asyncio.run(asyncio.wait_for(scenario(), 120))


def assert_same(found: Sequence[Answer], expected: Sequence[Answer]) -> None:
    """Token for token, up to where the model itself wavered between two."""
    for one, other in zip(found, expected, strict=True):
        assert len(one.logprobs) == len(other.logprobs)
        for mine, theirs in zip(one.logprobs, other.logprobs, strict=True):
            if mine.bytes != theirs.bytes:
                assert theirs.top[0].logprob - theirs.top[1].logprob < NOISE
                break
            assert abs(mine.logprob - theirs.logprob) < NOISE


def test_a_common_beginning_is_read_once_and_changes_no_answer(tiny: Path) -> None:
    requests = [ask(SYSTEM + f"question {i}") for i in range(8)]
    apart, _ = answers(tiny, requests, together=False, prefix_cache=False)
    for together in (True, False):
        shared, load = answers(tiny, requests, together=together, slots=8)
        assert_same(shared, apart)
        usages = [a.usage for a in shared if a.usage is not None]
        computed = sum(u.prompt_tokens - u.cached_tokens for u in usages)
        assert computed < 1.6 * usages[0].prompt_tokens
        assert load.kept > 0
    assert all(a.usage is not None and a.usage.cached_tokens == 0 for a in apart)


def test_another_tenant_shares_nothing(tiny: Path) -> None:
    requests = [ask(SYSTEM, tenant=name) for name in ("one", "two", "one")]
    found, _ = answers(tiny, requests, together=False)
    assert [a.usage is not None and a.usage.cached_tokens > 0 for a in found] == [False, False, True]


@pytest.mark.parametrize("park_bytes", [0, 64 * 1024 * 1024])
def test_demand_of_three_times_the_cache_completes_and_peers_change_nothing(tiny: Path, park_bytes: int) -> None:
    tiers: list[ServiceTier] = ["priority", "default", "flex"]
    requests = [ask(f"tell me {i} ", 200, tenant=f"t{i % 3}", service_tier=tiers[i % 3]) for i in range(12)]
    options: dict[str, Any] = {"context_tokens": 300, "kv_tokens": 400, "slots": 6}
    apart, _ = answers(tiny, requests, together=False, **options)
    crowded, load = answers(tiny, requests, together=True, park_bytes=park_bytes, **options)
    assert_same(crowded, apart)
    assert all(a.usage is not None and a.usage.completion_tokens == 200 for a in crowded)
    assert load.parked > 0
    assert sum(a.timings.parked for a in crowded if a.timings) == load.parked


def test_a_deterministic_answer_is_the_same_bit_for_bit_beside_others(tiny: Path) -> None:
    lone = ask(SYSTEM, 40, deterministic=True)
    others = [ask(SYSTEM + "x" * i, 60, tenant=f"t{i}") for i in range(5)]
    alone, _ = answers(tiny, [lone], together=False)
    beside, _ = answers(tiny, [*others, lone], together=True)
    again, _ = answers(tiny, [lone, lone], together=False)
    assert alone[0].logprobs == beside[-1].logprobs == again[0].logprobs == again[1].logprobs
    assert alone[0].text == beside[-1].text


def test_adapters_are_chosen_by_each_request_and_do_not_mix(tiny: Path, tmp_path: Path) -> None:
    adapters = tuple((name, str(write_adapter(tmp_path / f"{name}.gguf", seed=i))) for i, name in enumerate("ab", 1))
    requests = [ask(SYSTEM, adapter=name) for name in (None, "a", "b", "a", None, "b")]
    apart, _ = answers(tiny, requests, together=False, adapters=adapters)
    together, _ = answers(tiny, requests, together=True, adapters=adapters)
    assert_same(together, apart)
    assert len({a.text for a in apart}) == 3
    plain, _ = answers(tiny, requests[:1], together=False)
    assert_same(plain, apart[:1])


@pytest.mark.parametrize(("name", "value"), [("service_tier", "gold"), ("weight", 0.0), ("weight", float("nan"))])
def test_a_tier_or_weight_that_makes_no_sense_is_refused_by_name(tiny: Path, name: str, value: Any) -> None:
    with pytest.raises(BadRequest, match=name):
        answers(tiny, [ask("x", **{name: value})], together=False)


def test_an_unknown_adapter_is_refused_and_a_broken_one_is_named(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="'zzz'"):
        answers(tiny, [ask("x", adapter="zzz")], together=False)
    (tmp_path / "bad.gguf").write_bytes(b"no adapter")
    with pytest.raises(ModelError, match="'broken'"):
        answers(tiny, [ask("x")], together=False, adapters=(("broken", str(tmp_path / "bad.gguf")),))


def test_beginnings_survive_a_restart_if_asked(tiny: Path, tmp_path: Path) -> None:
    requests = [ask(SYSTEM + "one"), ask(SYSTEM + "two")]
    options: dict[str, Any] = {"prefix_cache_dir": str(tmp_path / "prefixes")}
    first, _ = answers(tiny, requests, together=False, **options)
    again, load = answers(tiny, [ask(SYSTEM + "three"), requests[0]], together=False, **options)
    assert load.kept > 0
    cached = [a.usage.cached_tokens for a in again if a.usage]
    assert min(cached) > 0.8 * min(a.usage.prompt_tokens for a in again if a.usage)
    assert_same(again[1:], first[:1])
    fresh, _ = answers(tiny, [ask(SYSTEM + "three")], together=False)
    assert_same(again[:1], fresh)
    stranger, _ = answers(tiny, [ask(SYSTEM + "three", tenant="other")], together=False, **options)
    assert stranger[0].usage is not None
    assert stranger[0].usage.cached_tokens == 0


def test_a_lone_prompt_is_known_again_after_a_restart(tiny: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"prefix_cache_dir": str(tmp_path / "prefixes")}
    first, _ = answers(tiny, [ask(SYSTEM)], together=False, **options)
    again, _ = answers(tiny, [ask(SYSTEM)], together=False, **options)
    assert_same(again, first)
    assert again[0].usage is not None
    assert again[0].usage.cached_tokens == again[0].usage.prompt_tokens - 1


def test_a_system_prompt_that_one_prompt_followed_is_known_by_another_after_a_restart(
    tiny: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"prefix_cache_dir": str(tmp_path / "prefixes")}
    answers(tiny, [ask(SYSTEM + "one and some more words", 60)], together=False, **options)
    again, load = answers(tiny, [ask(SYSTEM + "two")], together=False, **options)
    fresh, _ = answers(tiny, [ask(SYSTEM + "two")], together=False)
    assert_same(again, fresh)
    usage = again[0].usage
    assert usage is not None
    assert usage.prompt_tokens - 10 < usage.cached_tokens < usage.prompt_tokens
    assert load.kv_used <= usage.total_tokens, "what the file had beyond the common beginning takes no room"


def test_where_no_file_can_be_made_it_serves_without_and_says_so_once(
    tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "foreshore"):
        found, _ = answers(tiny, [ask(SYSTEM), ask(SYSTEM)], together=False, prefix_cache_dir="/proc/none/prefixes")
    assert [a.usage is not None and a.usage.cached_tokens > 0 for a in found] == [False, True]
    (said,) = [record.message for record in caplog.records]
    assert said.startswith("no prefix cache on disk: /proc/none/prefixes cannot be used")


def test_a_file_in_place_of_the_folder_is_an_error_of_the_config(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="prefix_cache_dir"):
        answers(tiny, [ask(SYSTEM)], together=False, prefix_cache_dir=str(tiny))


def test_damaged_beginnings_are_computed_again(tiny: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"prefix_cache_dir": str(tmp_path)}
    first, _ = answers(tiny, [ask(SYSTEM)], together=False, **options)
    for file in tmp_path.iterdir():
        raw = bytearray(file.read_bytes())
        raw[-20:] = b"x" * 20
        file.write_bytes(raw)
    again, _ = answers(tiny, [ask(SYSTEM)], together=False, **options)
    assert_same(again, first)
    assert again[0].usage is not None
    assert again[0].usage.cached_tokens == 0
