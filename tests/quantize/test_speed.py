"""The speed of a variant on this device, and which device that is. No figure is held against a clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foreshore.card import Card
from foreshore.edge import machine
from foreshore.errors import ModelError
from foreshore.quantize.device import fingerprint, this_device
from foreshore.quantize.speed import bandwidth, measure_speed
from tests.tiny_model import write_decoder


def test_a_decoder_has_all_figures(tiny: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = measure_speed(
        tiny, threads=1, repeats=2, loads=2, prefill_tokens=32, decode_tokens=8, progress=lambda *n: seen.append(n)
    )
    assert found.prefill is not None
    assert found.decode is not None
    assert found.bandwidth_bytes_per_s is not None
    for spread, runs in ((found.load_s, 2), (found.prefill, 2), (found.decode, 2)):
        assert 0 < spread.low <= spread.median <= spread.high
        assert spread.runs == runs
    assert found.threads == 1
    assert tiny.stat().st_size < found.peak_bytes < machine.limit()
    assert seen == [(n, 8) for n in range(1, 9)]
    assert Card.from_json(Card(speeds=(found,)).to_json()) == Card(speeds=(found,))


def test_an_encoder_only_reads(tiny_encoder: Path) -> None:
    found = measure_speed(tiny_encoder, threads=1, repeats=1, loads=1)
    assert found.prefill is not None
    assert found.prefill.median > 0
    assert found.decode is None


def test_runs_are_shortened_to_a_small_context(tmp_path: Path) -> None:
    small = write_decoder(tmp_path / "small.gguf", context=256)
    assert measure_speed(small, threads=1, repeats=1, loads=1, prefill_tokens=5000, decode_tokens=5000).decode


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError):
        measure_speed(broken)


def test_memory_is_read_at_a_plausible_rate() -> None:
    assert 1e8 < bandwidth(1) < 1e13


def test_this_device_is_named_and_stays_the_same() -> None:
    found = this_device()
    assert found == this_device()
    assert found.memory_bytes == machine.limit()
    assert found.cores >= 1
    assert "llama.cpp" in found.engine
    assert len(found.fingerprint) == 16
    assert this_device("onnxruntime").fingerprint != found.fingerprint


def test_a_class_is_told_by_what_makes_it_fast() -> None:
    def of(**changed: Any) -> str:
        facts = {
            "cpu": "Fast CPU",
            "cores": 8,
            "memory_bytes": 16 << 30,
            "system": "Linux x86_64",
            "engine": "llama.cpp",
        }
        return fingerprint(**{**facts, "build": "a", **changed})

    assert of(memory_bytes=15 << 30) == of(), "firmware keeps some"
    others = [of(memory_bytes=8 << 30), of(cpu="Slow CPU"), of(cores=4), of(engine="onnxruntime"), of(build="b")]
    assert len({of(), *others}) == 6
