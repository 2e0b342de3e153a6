"""`foreshore models promote`, `diff`, `lineage`, `fit`, `sign` and `verify`, as a user calls them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from foreshore.card import Accuracy, Card, Divergence, Interval, Segment, Speed, Spread
from foreshore.cli import app
from foreshore.manifest import Calibration, FileRecord, Manifest, Parent, Source
from foreshore.quantize.device import this_device
from foreshore.store import Store
from tests.store.gguf_files import gguf, tensor

F16 = "aa" * 32


def around(value: float, half: float) -> Interval:
    return Interval(value=value, low=value - half, high=value + half)


def card(kl: float = 0.02, change: float = 0.0, decode: float = 30) -> Card:
    few = Spread(median=1, low=1, high=1, runs=3)
    rate = Spread(median=decode, low=decode - 1, high=decode + 1, runs=3)
    return Card(
        divergence=Divergence(
            parent_sha256=F16,
            text_sha256="bb" * 32,
            documents=50,
            tokens=5000,
            perplexity=around(10.25, 0.5),
            parent_perplexity=around(10, 0.5),
            kl_mean=around(kl, 0.001),
            kl_p99=around(10 * kl, 0.01),
            same_top=around(0.95, 0.01),
        ),
        accuracy=Accuracy(
            tasks_sha256="cc" * 32,
            segments={
                "sums": Segment(
                    count=99, correct=90, share=around(0.9, 0.1), parent_correct=90, change=around(change, 0.01)
                )
            },
        ),
        speeds=(
            Speed(
                device=this_device(), date="2026-01-02", threads=2, load_s=few, peak_bytes=99, prefill=rate, decode=rate
            ),
        ),
    )


def add(variant: str, content: bytes, **changes: Any) -> Manifest:
    made = Manifest(
        name="m",
        variant=variant,
        created="2026-01-02T03:04:05+00:00",
        source=Source(kind="hub", id="org/m", revision="abc123", files={"model.safetensors": "dd" * 32}),
        files={"model.gguf": FileRecord(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))},
        recipe={"type": variant, "imatrix": None},
        tools={"foreshore": "0"},
        architecture="llama",
        parameters=1000,
        bits_per_weight=8.5,
        context_length=128,
        seconds=1.5,
    )
    made, store = replace(made, **changes), Store()
    with store.lock("m", variant), store.draft() as folder:
        (folder / "files").mkdir()
        (folder / "files" / "model.gguf").write_bytes(content)
        return store.add(made, folder / "files")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FORESHORE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FORESHORE_TRUST", raising=False)
    return tmp_path / "home"


@pytest.fixture
def small() -> Manifest:
    parent = Parent(sha256=F16, ref="m:f16")
    calibration = Calibration(imatrix_sha256="ee" * 32, text_sha256="ff" * 32)
    return add("q8_0", gguf(), card=card(), parent=parent, calibration=calibration)


@pytest.fixture
def large() -> Manifest:
    """As `small`, but its first tensor in F16 and its last in F32."""
    tensors = [tensor("token_embd.weight", (32, 4), 1, 0), tensor("output.weight", (32, 2), 0, 256)]
    made = gguf(tensors=tensors, data=bytes(512))
    return add("f16", made, card=card(kl=0.0, decode=10), recipe={"type": "f16", "imatrix": None}, bits_per_weight=16.0)


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["models", *(str(a) for a in arguments)])
    assert result.exit_code == code, result.output
    return result


def test_promote_makes_ready_what_passes(small: Manifest) -> None:
    said = run("promote", "m:q8_0", "--owner", "Ada").stdout
    assert "kl<=0.05" in said
    assert "0.0210" in said
    assert "m:q8_0: ready" in said
    assert Store().get("m").state == "ready"
    found = json.loads(run("promote", "m", "--owner", "Ada", "--gate", "kl<=0.03", "--json").stdout)
    assert (found["state"], found["rule"], found["owner"], found["passed"]) == ("ready", "kl<=0.03", "Ada", True)


def test_promote_says_why_not_and_leaves_with_2(small: Manifest) -> None:
    result = run("promote", "m:q8_0", "--owner", "Ada", "--gate", "kl<=0.01,accuracy>=0%", "--json", code=2)
    found = json.loads(result.stdout)
    assert found["state"] == "candidate"
    assert len(found["reasons"]) == 2
    assert "m:q8_0 is a candidate: the upper bound of kl" in result.stderr
    assert Store().get("m").state == "candidate"
    assert "gate 1" in run("show", "m").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["promote", "m", "--owner", "Ada", "--gate", "kl<0.1"], "no condition"),
        (["promote", "m", "--owner", " "], "owner"),
        (["promote", "absent", "--owner", "Ada"], "no variant"),
        (["diff", "m", "absent"], "no variant"),
        (["lineage", "absent"], "no variant"),
        (["fit", "absent"], "no variant"),
        (["fit", "m", "--concurrency", "256"], "from 1 to 255"),
        (["fit", "m", "--speed", "-1"], "positive"),
        (["sign", "m", "--key", "absent.pem"], "no private key"),
    ],
)
def test_a_mistake_is_one_line_and_a_hint(arguments: list[str], said: str, small: Manifest) -> None:
    result = run(*arguments, code=2)
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_diff_names_what_is_different(small: Manifest, large: Manifest) -> None:
    found = json.loads(run("diff", "m:q8_0", "m:f16", "--json").stdout)
    assert found["variants"] == ["m:q8_0", "m:f16"]
    assert found["bytes"] == [small.bytes, large.bytes]
    assert found["recipe"] == {"type": ["q8_0", "f16"]}
    assert found["tensors"] == {"token_embd.weight": ["f32", "f16"], "output.weight": ["q8_0", "f32"]}
    assert found["tools"] == found["source"] == {}
    assert found["comparable"]
    assert [quality["divergence"]["kl_mean"]["value"] for quality in found["quality"]] == [0.02, 0]
    assert [speed["decode"]["median"] for speed in found["speed"]] == [30, 10]
    said = run("diff", "m:q8_0", "m:f16").stdout
    for part in ("0.0200 [0.0190, 0.0210]", "30.0 (29.0 to 31.0)", "token_embd.weight", "accuracy, sums"):
        assert part in said


def test_diff_of_a_variant_with_itself_is_empty(small: Manifest) -> None:
    found = json.loads(run("diff", "m", "m", "--json").stdout)
    assert found["recipe"] == found["tools"] == found["source"] == found["tensors"] == {}


def test_diff_says_what_cannot_be_compared(small: Manifest, large: Manifest) -> None:
    measured = card()
    assert measured.divergence is not None
    other = replace(measured, divergence=replace(measured.divergence, text_sha256="99" * 32), speeds=())
    Store().update("m:f16", lambda m: replace(m, card=other))
    result = run("diff", "m:q8_0", "m:f16")
    assert "on another text" in result.stderr
    found = json.loads(run("diff", "m:q8_0", "m:f16", "--json").stdout)
    assert not found["comparable"]
    assert found["speed"][1] is None


def test_lineage_goes_from_the_source_to_the_decision(small: Manifest) -> None:
    run("promote", "m", "--owner", "Ada")
    found = json.loads(run("lineage", "m", "--json").stdout)
    assert found["source"]["revision"] == "abc123"
    assert found["parent"] == {"sha256": F16, "ref": "m:f16", "stored": None}
    assert found["calibration"]["text_sha256"] == "ff" * 32
    assert found["recipe"]["type"] == "q8_0"
    assert found["card"]["divergence"]["kl_mean"]["value"] == 0.02
    assert [d["owner"] for d in found["gate"]] == ["Ada"]
    said = run("lineage", "m").stdout
    parts = ("hub org/m abc123", "parent: m:f16", "calibration", "recipe", "measured", "gate", "Ada: passed")
    places = [said.find(part) for part in parts]
    assert places == sorted(places)
    assert -1 not in places


def test_lineage_finds_the_parent_in_the_store(small: Manifest, large: Manifest) -> None:
    digest = large.files["model.gguf"].sha256
    Store().update("m:q8_0", lambda m: replace(m, parent=Parent(sha256=digest)))
    assert json.loads(run("lineage", "m:q8_0", "--json").stdout)["parent"]["stored"] == "m:f16"
    assert "m:f16, in the store" in run("lineage", "m:q8_0").stdout


def test_lineage_of_what_nobody_measured_says_so(small: Manifest) -> None:
    Store().update("m", lambda m: replace(m, card=None, recipe={"type": "mix", "tensors": {"a": "q4_k", "b": "q4_k"}}))
    said = run("lineage", "m").stdout
    for part in ("measured: nothing", "gate: no decision", "tensors: q4_k 2"):
        assert part in said


def test_fit_recommends_with_numbers(small: Manifest, large: Manifest) -> None:
    run("promote", "m:q8_0", "--owner", "Ada")
    run("promote", "m:f16", "--owner", "Ada")
    found = json.loads(run("fit", "m", "--json").stdout)
    assert found["recommended"] == "m:q8_0"
    assert found["need"]["context"] == 128
    assert this_device().fingerprint in found["need"]["fingerprints"]
    assert json.loads(run("fit", "m", "--speed", "5", "--json").stdout)["recommended"] == "m:f16"
    said = run("fit", "m", "--context", "64", "--concurrency", "2").stdout
    for part in ("2 x 64 tokens", "30.0 tokens/s measured here", "KL 0.0200 [0.0190, 0.0210]"):
        assert part in said


def test_fit_says_what_does_not(small: Manifest) -> None:
    found = json.loads(run("fit", "m", "--context", "4096", "--json").stdout)
    assert found["recommended"] is None
    assert "its context ends at 128 tokens" in run("fit", "m", "--context", "4096").stdout


def test_sign_and_verify(small: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("model_signing")
    from tests.store.test_signing import keys, public

    key, other = keys(tmp_path), keys(tmp_path, "other")
    assert "not signed" in run("verify", "--trust", public(key), code=2).output
    assert json.loads(run("sign", "m", "--key", key, "--json").stdout)["ref"] == "m:q8_0"
    assert "signed by a trusted key" in run("verify", "m", "--trust", public(other), "--trust", public(key)).stdout
    assert json.loads(run("verify", "--trust", public(other), "--json", code=2).stdout)[0]["ok"] is False
    monkeypatch.setenv("FORESHORE_TRUST", str(public(other)))
    assert "does not hold" in run("verify", code=2).output


def test_bad_files_are_not_signed(small: Manifest, tmp_path: Path) -> None:
    Store().path(small).write_bytes(b"GGUF")
    (tmp_path / "key").touch()
    assert "damaged" in run("sign", "m", "--key", tmp_path / "key", code=2).stderr


@pytest.mark.parametrize("command", ["promote", "diff", "lineage", "fit", "sign", "verify"])
def test_help_is_shown(command: str) -> None:
    assert "Usage" in run(command, "--help").stdout
