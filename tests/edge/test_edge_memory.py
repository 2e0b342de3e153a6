"""What a model will take is known before a process is started, from any header, and holds against a real worker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.backend import collect
from foreshore.edge import EngineOptions, LocalBackend, machine
from foreshore.edge.gguf import inspect
from foreshore.edge.machine import available, limit
from foreshore.edge.memory import estimate
from foreshore.edge.options import KvType
from foreshore.edge.pool import Pool
from foreshore.errors import NotFound
from foreshore.types import Request, Sampling
from tests.edge.test_edge_worker import until
from tests.store.gguf_files import KEYS, STRING, gguf, key, number, text, write
from tests.tiny_model import write_decoder

MB = 1_000_000
CACHE_HEADER = [
    number("llama.attention.head_count", 4),
    number("llama.attention.head_count_kv", 2),
    number("llama.attention.key_length", 8),
    number("llama.attention.value_length", 16),
]


def header(tmp_path: Path, *keys: bytes) -> Path:
    return write(tmp_path / "m.gguf", gguf([*KEYS, *keys]))


def test_the_cache_is_counted_by_heads_sizes_and_type(tmp_path: Path) -> None:
    path = header(tmp_path, *CACHE_HEADER)
    found = estimate(path, EngineOptions(kv_tokens=1000))
    assert found.cell == 2 * (8 + 16) * 2  # one layer, two heads, two bytes
    assert found.cache == 1024 * found.cell  # the engine rounds up to 256 cells
    smaller = estimate(path, EngineOptions(kv_tokens=1000, kv_type="q8_0"))
    assert smaller.cache == found.smaller_cache == found.cache * 34 // 64
    assert smaller.smaller_cache == 0


def test_layers_may_differ_and_some_keep_nothing(tmp_path: Path) -> None:
    heads = key("llama.attention.head_count_kv", 9, b"\x04\0\0\0" + (3).to_bytes(8, "little") + b"".join(
        n.to_bytes(4, "little") for n in (2, 0, 4)
    ))  # fmt: skip
    keys = [k for k in KEYS if b"block_count" not in k]
    path = write(tmp_path / "m.gguf", gguf([*keys, number("llama.block_count", 3), CACHE_HEADER[0], heads]))
    assert estimate(path, EngineOptions(kv_tokens=256)).cell == (2 + 4) * (8 + 8) * 2


def test_latent_attention_keeps_keys_alone(tmp_path: Path) -> None:
    latent = [
        number("llama.attention.kv_lora_rank", 512),
        number("llama.attention.key_length_mla", 192),
        number("llama.attention.head_count", 16),
        number("llama.attention.head_count_kv", 1),
        number("llama.attention.key_length", 576),
        number("llama.attention.value_length", 512),
    ]
    assert estimate(header(tmp_path, *latent), EngineOptions(kv_tokens=256)).cell == 576 * 2


def test_an_encoder_has_no_cache(tiny_encoder: Path) -> None:
    assert estimate(tiny_encoder, EngineOptions()).cache == 0


@pytest.mark.parametrize("value", [text("many"), text("")])
def test_a_header_with_nonsense_is_estimated_and_left_to_the_engine(tmp_path: Path, value: bytes) -> None:
    path = header(tmp_path, key("llama.attention.head_count", STRING, value), number("llama.feed_forward_length", 0))
    assert estimate(path, EngineOptions()).total > 0


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        estimate(tmp_path / "none.gguf", EngineOptions())


@given(
    slots=st.integers(1, 32),
    context=st.none() | st.integers(1, 2048),
    kv_type=st.sampled_from(["f32", "f16", "q8_0", "q4_0"]),
    batch=st.integers(32, 1024),
)
def test_more_of_anything_never_needs_less(
    tiny: Path, slots: int, context: int | None, kv_type: KvType, batch: int
) -> None:
    fields: dict[str, Any] = {"context_tokens": context, "kv_type": kv_type, "slots": slots, "batch_tokens": batch}
    less = estimate(tiny, EngineOptions(**fields))
    for more in ({"slots": slots + 1, "batch_tokens": batch + 1}, {"flash_attention": "off"}, {"batch_tokens": 4096}):
        assert estimate(tiny, EngineOptions(**{**fields, **more})).total >= less.total


@pytest.mark.parametrize("options", [{}, {"slots": 2, "context_tokens": 300}, {"kv_tokens": 5000}])
def test_the_engine_makes_the_cache_that_was_estimated(tiny: Path, options: dict[str, Any]) -> None:
    async def scenario() -> None:
        backend = LocalBackend(tiny, options=EngineOptions(threads=1, **options), pool=Pool())
        info = await backend.start()
        assert backend.memory is not None
        assert backend.memory.kv_tokens == info.kv_tokens
        await backend.close()

    asyncio.run(scenario())


def test_a_worker_takes_what_was_estimated_and_gives_it_back(tmp_path: Path) -> None:
    path = write_decoder(tmp_path / "wide.gguf", width=512, layers=8, context=4096)
    options = EngineOptions(threads=1, slots=4, kv_tokens=16384)
    expected = estimate(path, options)
    assert expected.weights > 60 * MB
    assert expected.cache > 60 * MB

    async def scenario() -> None:
        backend = LocalBackend(path, options=options, pool=Pool())
        before = available()
        await backend.start()
        prompt = tuple(i % 256 for i in range(600))
        await collect(backend, Request(task="completion", prompt=prompt, sampling=Sampling(max_tokens=2)))
        worker = psutil.Process(backend.pid)
        taken = worker.memory_info().rss
        assert abs(taken - expected.total) < max(50 * MB, 0.15 * expected.total)
        await asyncio.to_thread(backend._seat.pool.vacate, backend._seat.place)
        assert not worker.is_running()
        await until(lambda: before - available() < taken / 2, "the memory is free again")
        await backend.close()

    asyncio.run(scenario())


def test_a_container_bounds_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    assert limit() == psutil.virtual_memory().total
    for folder, names in {
        tmp_path: ("memory.max", "memory.current"),
        tmp_path / "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    }.items():
        folder.mkdir(exist_ok=True)
        for name, value in zip(names, (500 * MB, 300 * MB), strict=True):
            (folder / name).write_text(f"{value}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {50 * MB}\n")
    assert available() == 250 * MB
    assert limit() == 500 * MB
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        (tmp_path / name).write_text("max\n")
    assert available() > 250 * MB


def test_tensors_that_the_engine_copies_count_twice(tmp_path: Path, tiny: Path) -> None:
    plain = estimate(tiny, EngineOptions())
    assert plain.weights == sum(t.nbytes for t in inspect(tiny).tensors)  # f32 is not copied
    assert estimate(tiny, EngineOptions(mmap=False)).mapped == 0
