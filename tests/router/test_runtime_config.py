"""The config's keys for the local runtime are the engine's own, and every mistake in them is named with its line."""

from __future__ import annotations

import types
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from foreshore.config import parse_config
from foreshore.edge import EngineOptions, LocalBackend
from foreshore.errors import ConfigError
from foreshore.router.router import Router
from foreshore.runtime_config import BATCH_TOKENS, SLOTS, EngineConfig, RuntimeConfig, ThrottleConfig

TARGET = "targets:\n  edge:\n    kind: local\n    model: tiny\n"


def test_each_option_of_the_engine_has_its_key() -> None:
    assert set(EngineConfig.model_fields) == {field.name for field in fields(EngineOptions)}
    assert EngineOptions(**EngineConfig().options()) == EngineOptions()
    assert (EngineOptions().slots, EngineOptions().batch_tokens) == (SLOTS, BATCH_TOKENS)


@pytest.mark.parametrize("name", [f.name for f in fields(EngineOptions)])
def test_a_key_takes_what_the_option_takes(name: str) -> None:
    option, key = get_type_hints(EngineOptions)[name], EngineConfig.model_fields[name].annotation
    assert _words(option) == _words(key)
    assert (_kinds(option) - {tuple}) <= _kinds(key) | {float}


def _words(hint: Any) -> set[Any]:
    return {w for arm in _arms(hint) if get_origin(arm) is Literal for w in get_args(arm)}


def _kinds(hint: Any) -> set[Any]:
    return {get_origin(arm) or arm for arm in _arms(hint)} - {Literal, type(None)}


def _arms(hint: Any) -> list[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        return [arm for part in get_args(hint) for arm in _arms(part)]
    return [get_args(hint)[0]] if hasattr(hint, "__metadata__") else [hint]


SMALL = st.none() | st.integers(-2, 600) | st.sampled_from(["auto", "on", "off", "draft", "lookup", "fair", "q8_0", ""])


@given(st.dictionaries(st.sampled_from([f.name for f in fields(EngineOptions)]), SMALL, max_size=5))
def test_what_the_config_takes_the_engine_takes(given: dict[str, Any]) -> None:
    try:
        config = EngineConfig(**given)
    except ValidationError:
        return
    EngineOptions(**config.options())


def test_a_config_sets_up_backends_and_their_pool(tmp_path: Path) -> None:
    text = TARGET + (
        "    keep_alive: 60\n"
        "    engine: {slots: 2, kv_type: q8_0, flash_attention: on, speculation: lookup, adapters: {law: law.gguf}}\n"
        "  other: {kind: local, model: tiny}\n"
        "runtime: {memory: 50%, max_models: 2}\n"
        f"ledger: {{path: {tmp_path / 'ledger.sqlite'}}}\n"
    )
    router = Router(parse_config(text))
    edge, other = (router.loaded.targets[name].backend for name in ("edge", "other"))
    assert isinstance(edge, LocalBackend)
    assert isinstance(other, LocalBackend)
    assert edge.options == EngineOptions(
        slots=2, kv_type="q8_0", flash_attention="on", speculation="lookup", adapters=(("law", "law.gguf"),)
    )
    assert (edge.keep_alive, other.keep_alive) == (60, None)
    assert other.options == EngineOptions()
    assert edge.pool is other.pool
    assert edge.pool.models == 2
    assert edge.pool.memory is not None
    router.ledger.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("    engine: {slots: 0}", ":5: targets.edge.engine.slots"),
        ("    engine: {slotz: 2}", ":5: unknown key 'targets.edge.engine.slotz'; did you mean 'slots'"),
        ("    engine:\n      slots: 4\n      threads: many", ":7: targets.edge.engine.threads"),
        ("    engine: {slots: true}", ":5: targets.edge.engine.slots"),
        ("    engine: {kv_type: q9}", ":5: targets.edge.engine.kv_type"),
        ("    engine: {slots: 64, batch_tokens: 32}", "batch_tokens is 32, less than slots (64)"),
        ("    engine: {speculation: draft}", "draft_model belong together"),
        ("    engine: {adapters: [a]}", ":5: targets.edge.engine.adapters"),
        ("    engine: 5", ":5: targets.edge.engine"),
        ("    keep_alive: -1", ":5: targets.edge.keep_alive"),
        ("  c: {kind: openai, model: x, key_env: K, keep_alive: 5}", "keep_alive is for kind 'local', not 'openai'"),
        ("  c: {kind: anthropic, model: x, key_env: K, engine: {slots: 2}}", "engine is for kind 'local'"),
        ("runtime: {memory: lots}", ":5: runtime.memory: is 'lots', not a size such as 6 GiB"),
        ("runtime: {memory: 120%}", ":5: runtime.memory: cannot be more than 100%"),
        ("runtime: {memory: 0}", ":5: runtime.memory: must be more than nothing"),
        ("runtime: {memory: true}", ":5: runtime.memory"),
        ("runtime: {memory: -5 GiB}", ":5: runtime.memory"),
        ("runtime: {max_models: 0}", ":5: runtime.max_models"),
        ("runtime: {throttle: {threads: 0}}", ":5: runtime.throttle.threads"),
        ("runtime: {throttle: {heat_celcius: 85}}", "did you mean 'heat_celsius'"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(TARGET + text)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("memory", "found"),
    [(None, None), (1000, 1000), ("80%", 800), ("1.5 KiB", 1536), ("2kB", 2000), ("3 GiB", 3 << 30), ("512B", 512)],
)
def test_a_budget_of_memory(memory: int | str | None, found: int | None) -> None:
    assert RuntimeConfig(memory=memory).memory_bytes(1000) == found


def test_an_empty_throttle_is_on_with_its_defaults() -> None:
    runtime = parse_config(TARGET + "runtime: {throttle: {}}").runtime
    assert runtime.throttle == ThrottleConfig(battery_percent=30, heat_celsius=85, threads=0.5)
    assert parse_config(TARGET + "runtime: {throttle: {heat_celsius: null}}").runtime.throttle is not None
