"""`foreshore lora`, as a user calls it, and what the engine makes of the adapter."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from foreshore.backend import collect
from foreshore.cli.lora import app
from foreshore.edge import EngineOptions, LocalBackend
from foreshore.quantize import build
from foreshore.types import Request, Sampling
from tests.quantize.tiny_adapters import MATRICES, adapter, merged_logits
from tests.quantize.tiny_models import decoder
from tests.quantize.transformers_check import fast

PROMPT = "The quick brown fox jumps over"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decoder(tmp_path_factory.mktemp("models") / "tiny", "Llama")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHORE_HOME", str(tmp_path / "home"))


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


def likeliest(model: Path, lora: Path | None) -> list[float]:
    """The log probabilities of the five likeliest tokens after the prompt, as the engine answers."""
    adapters = (("ours", str(lora)),) if lora else ()
    request = Request(
        task="completion",
        prompt=PROMPT,
        sampling=Sampling(max_tokens=1, temperature=0, logprobs=5),
        adapter="ours" if lora else None,
    )

    async def scenario() -> list[float]:
        backend = LocalBackend(model, options=EngineOptions(threads=1, adapters=adapters))
        try:
            await backend.start()
            answer = await collect(backend, request)
        finally:
            await backend.close()
        return [token.logprob for token in answer.logprobs[0].top]

    return asyncio.run(asyncio.wait_for(scenario(), 60))


def test_the_engine_answers_as_the_merged_model(base: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "peft", base, MATRICES, rank=8)
    (variant,) = build(base, ["f32"])
    made = tmp_path / "adapters" / "ours.gguf"
    facts = json.loads(run(folder, "--base", variant.ref, "-o", made, "--json").stdout)
    assert facts["path"] == str(made)
    assert (facts["architecture"], facts["matrices"], facts["ranks"], facts["alpha"]) == ("llama", 14, [8], 16)
    assert facts["bytes"] == made.stat().st_size
    logits = merged_logits(base, folder, fast(base)(PROMPT)["input_ids"])[-1].astype(np.float64)
    expected = sorted(logits - logits.max() - math.log(np.exp(logits - logits.max()).sum()), reverse=True)[:5]
    model = tmp_path / "home" / "models" / "tiny" / "f32" / "model.gguf"
    assert likeliest(model, made) == pytest.approx(expected, abs=0.02)
    assert likeliest(model, None) != pytest.approx(expected, abs=0.1)


def test_a_folder_or_a_file_is_a_base_too(base: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "peft", base, ["q_proj", "v_proj"])
    run(folder, "--base", base, "-o", tmp_path / "a.gguf")
    build(base, ["f32"])
    result = run(
        folder, "--base", tmp_path / "home" / "models" / "tiny" / "f32" / "model.gguf", "-o", tmp_path / "b.gguf"
    )
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert "4 matrices of llama, rank 4" in result.stdout
    assert "adapters: {b: " in result.stderr


@pytest.mark.parametrize(
    ("target", "said"),
    [("absent:q8_0", "absent:q8_0"), ("starter-s", "q_proj"), ("nowhere/model.gguf", "no such file")],
)
def test_a_base_that_does_not_fit_is_named(target: str, said: str, base: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "peft", base, ["q_proj"])
    assert said in run(folder, "--base", target, "-o", tmp_path / "out.gguf", code=2).stderr
    assert not (tmp_path / "out.gguf").exists()
