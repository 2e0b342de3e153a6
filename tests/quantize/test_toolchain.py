"""The toolchain as a whole: a mix searched, built and stored, then measured, judged and reported; real engine, real
child processes, a tiny random model."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from foreshore import quantize
from foreshore.cli import app
from foreshore.edge.gguf import inspect
from foreshore.errors import ModelError, UsageError
from foreshore.manifest import Calibration, Manifest
from foreshore.quantize import build, build_mix, measure
from foreshore.quantize.calibrate import collect
from foreshore.quantize.choice import Need, choose, fingerprints, offers
from foreshore.quantize.gate import Gate, promote
from foreshore.quantize.recipes import mix_name, sensitivity
from foreshore.quantize.search.fit_targets import parse_fit
from foreshore.quantize.search.probes import PROBES
from foreshore.quantize.texts import Corpus, calibration_text
from foreshore.store import Store
from tests.quantize.test_build import Seen
from tests.quantize.tiny_models import decoder
from tests.tiny_model import write_decoder

WORDS = "the cat sat on a mat and saw how many birds flew over our old house by the sea before noon".split()
WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 256}  # rows that K-quants can cut into blocks
SHIPPED = str(Path(quantize.__file__).with_name("texts_evaluation.jsonl"))
BUDGET_S = 4.0
LIMIT = 900_000  # bytes: between what two and what eight bits a weight take


def corpus(seed: int, documents: int = 24) -> Corpus:
    draw = random.Random(seed)
    return Corpus.of(" ".join(draw.choices(WORDS, k=60)) for _ in range(documents))


CALIBRATION, HELD_OUT = corpus(1, 40), corpus(2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decoder(tmp_path_factory.mktemp("models") / "tiny", "Qwen2", dtype=torch.float16, **WIDE)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHORE_HOME", str(home))


@pytest.fixture(scope="module")
def mix(folder: Path, home: Path) -> Manifest:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORESHORE_HOME", str(home))
        return build_mix(folder, f"size<={LIMIT}", calibration=CALIBRATION, budget_s=BUDGET_S)


def test_a_mix_is_searched_and_stored(mix: Manifest, home: Path) -> None:
    store = Store()
    assert mix.ref == "tiny:mix-900kb"
    assert LIMIT * 0.9 < store.path(mix).stat().st_size <= LIMIT
    tensors = mix.recipe["tensors"]
    assert {t.name: t.type for t in inspect(store.path(mix)).tensors if t.name in tensors} == tensors
    assert len(set(tensors.values())) > 1, "a mix"
    assert mix.recipe["predicted_kl"] > 0
    assert mix.recipe["refined"] or not mix.recipe["compensated"], "none is compensated that was not refined"
    assert mix.calibration is not None
    assert mix.calibration.search_sha256 == CALIBRATION.sha256
    assert mix.calibration.texts == {CALIBRATION.sha256}
    assert mix.calibration.imatrix_sha256
    assert any(note.startswith("searched: ") for note in mix.notes)
    costs = sensitivity(mix.files[mix.main].sha256)
    assert set(costs) == set(tensors)
    kept = json.loads((home / "searches" / f"{mix.files[mix.main].sha256}.json").read_text())
    for name, row in costs.items():
        assert {kind for kind, (_, measured) in row.items() if measured} == set(kept["probed"].get(name, ()))
    assert all(kinds <= set(chain(*PROBES)) for kinds in map(set, kept["probed"].values()))


def test_a_mix_that_is_up_to_date_is_not_searched_again(mix: Manifest, folder: Path) -> None:
    seen = Seen()
    again = build_mix(folder, f"size<={LIMIT}", calibration=CALIBRATION, budget_s=BUDGET_S, progress=seen)
    assert again == mix
    assert seen.of("reuse") == [mix.ref]
    assert seen.of("search") == []


def test_what_cannot_be_met_says_what_can(folder: Path) -> None:
    with pytest.raises(UsageError, match="out of this model's reach") as caught:
        build_mix(folder, "size<=1KB", calibration=CALIBRATION, budget_s=BUDGET_S)
    assert "size<=" in str(caught.value.hint)
    with pytest.raises(UsageError, match="budget"):
        build_mix(folder, "size<=1MB", budget_s=0)


def test_an_importance_matrix_is_collected_once_a_text(folder: Path) -> None:
    seen, again = Seen(), Seen()
    (small,) = build(folder, ["q3_k_m"], imatrix="auto", calibration=CALIBRATION, progress=seen)
    assert small.recipe["imatrix"] == "auto"
    assert small.calibration is not None
    build(folder, ["q3_k_s"], imatrix="auto", calibration=CALIBRATION, progress=again)
    assert again.of("calibrate") == [], "that of the text before is kept"
    assert again.of("ready") == ["tiny:q3_k_s"]
    (other,) = build(folder, ["q3_k_m"], imatrix="auto", calibration=corpus(3, 40))
    assert other.calibration is not None
    assert other.calibration.imatrix_sha256 != small.calibration.imatrix_sha256


def test_an_importance_matrix_of_another_model_is_refused(folder: Path, tmp_path: Path, home: Path) -> None:
    build(folder, ["q3_k_m"], imatrix="auto", calibration=CALIBRATION)
    matrix = next((home / "imatrices").glob("*.gguf"))
    other = decoder(tmp_path / "other", "Qwen2", dtype=torch.float16, hidden_size=512, intermediate_size=256)
    with pytest.raises(ModelError, match="of another model"):
        build(other, ["q3_k_m"], imatrix=matrix)


def test_measuring_fills_the_card(mix: Manifest, folder: Path, tmp_path: Path) -> None:
    store = Store()
    (q8,) = build(folder, ["q8_0"])
    assert q8.state == "candidate"
    seen = Seen()
    made = measure([mix.ref, q8.ref], text=HELD_OUT, progress=seen)
    assert [m.ref for m in made] == [mix.ref, q8.ref]
    small, large = (m.card for m in made)
    assert small is not None
    assert large is not None
    assert small.divergence is not None
    assert large.divergence is not None
    assert mix.parent is not None
    assert small.divergence.kl_mean.low > large.divergence.kl_mean.high, "eight bits lose less"
    assert small.divergence.parent_sha256 == mix.parent.sha256
    assert small.divergence.text_sha256 == HELD_OUT.sha256
    assert [len(card.speeds) for card in (small, large)] == [1, 1]
    parent = store.get("tiny:f16")
    assert parent.state == "ready", "it is the parent itself, kept to be measured against"
    assert store.get(q8.ref).card == large
    (kept,) = measure([q8.ref], text=HELD_OUT, again=False, progress=(told := Seen()))
    assert kept.card == large
    assert told.of("measured") == [q8.ref]
    assert told.of("quality") == []
    (other,) = measure([q8.ref], text=CALIBRATION, again=False)
    assert other.card
    assert other.card.divergence
    assert other.card.divergence.text_sha256 == CALIBRATION.sha256, "what was measured was on another text"
    (again,) = measure([q8.ref], text=HELD_OUT)
    assert again.card
    assert len(again.card.speeds) == 1, "this device's speed was replaced"
    assert again.card.divergence == large.divergence


def test_what_was_calibrated_on_a_text_is_not_measured_on_it(mix: Manifest) -> None:
    with pytest.raises(UsageError, match="calibrated on the text"):
        measure([mix.ref], text=CALIBRATION)


def test_nor_on_a_document_of_the_shipped_text_that_it_was_calibrated_on(folder: Path) -> None:
    (made,) = build(folder, ["q8_0"])
    shipped = calibration_text()
    Store().update(made.ref, lambda m: replace(m, calibration=Calibration(text_sha256=shipped.sha256)))
    mine = Corpus.of([*HELD_OUT.documents, shipped.documents[3]])
    with pytest.raises(UsageError, match="1 of 25 documents to measure on are also calibrated on"):
        measure([made.ref], text=mine)


def test_what_came_quantized_is_not_held_against_itself(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    (made,) = build(folder, ["q8_0"], store=store)
    (came,) = build(store.path(made), None, "came", store=store)
    (measured,) = measure([came.ref], text=HELD_OUT, store=store)
    assert measured.card
    assert measured.card.divergence is None
    assert len(measured.card.speeds) == 1
    told = Seen()
    measure([came.ref], text=HELD_OUT, store=store, again=False, progress=told)
    assert told.of("measured") == [came.ref]
    assert promote(store, came.ref, "Ada", Gate.parse("kl<=1")).state == "candidate"
    (small,) = build(store.path(made), ["q4_0"], "came", requantize=True, store=store)
    measure([small.ref], text=HELD_OUT, store=store)
    judged = promote(store, small.ref, "Ada", Gate.parse("kl<=1e3"))
    assert judged.state == "candidate"
    assert judged.decision
    assert [r.partition(":")[0] for r in judged.decision.reasons] == ["its source came quantized"]
    _, found = offers(store, "came")
    chosen = choose(found, Need(context=64, memory_bytes=8 << 30, fingerprints=fingerprints()))
    assert chosen.recommended == came.ref
    assert "that the others were made of" in chosen.reason


def test_a_variant_whose_source_is_gone_cannot_be_measured(tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    source = decoder(tmp_path / "gone", "Qwen2", dtype=torch.float16)
    (made,) = build(source, ["q8_0"], store=store)
    source.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="parent of 'gone:q8_0' is gone"):
        measure([made.ref], text=HELD_OUT, store=store)


@pytest.mark.parametrize(
    ("fit", "name"),
    [
        ("size<=300MB", "mix-300mb"),
        ("size<=4000001", "mix-4000001b"),
        ("kl<=0.03", "mix-kl0.03"),
        ("memory<=1GB,decode>=20tok/s", "mix-memory1gb-decode20"),
        ("kl<=1e-5", "mix-kl1e-05"),
    ],
)
def test_a_mix_is_named_after_its_targets(fit: str, name: str) -> None:
    assert mix_name(parse_fit(fit)) == name


# --- from the command line --------------------------------------------------------------------------------------


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("files")
    for name, text in (("calibration", CALIBRATION), ("text", HELD_OUT)):
        lines = (json.dumps({"text": document}) for document in text.documents)
        (place / f"{name}.jsonl").write_text("\n".join(lines))
    (place / "tasks.jsonl").write_text(
        "\n".join(
            json.dumps({"prompt": w, "answer": answer, "check": "contains", "max_tokens": 2})
            for w in WORDS
            for answer in ("", "what no model says")
        )
    )
    return {p.stem: p for p in place.iterdir()}


def test_one_command_builds_measures_judges_and_reports(
    mix: Manifest, folder: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    page = tmp_path / "out.html"
    text, questions = files["text"], files["tasks"]
    options: list[str | Path] = ["--calibrate", files["calibration"], "--text", text, "--tasks", questions]
    gate = ["--owner", "Ada", "--gate", "kl<=100,accuracy>=-100%"]
    fit = ["--types", "q8_0", "--fit", f"size<={LIMIT}", "--budget", str(BUDGET_S)]
    result = run("quantize", folder, *fit, *options, *gate, "--report", page, "--json")
    made = {m["variant"]: m for m in json.loads(result.stdout)}
    assert list(made) == ["q8_0", mix.variant]
    assert made[mix.variant]["reused"]
    assert [m["state"] for m in made.values()] == ["ready", "ready"]
    asked = made["q8_0"]["card"]["accuracy"]["segments"]["all"]
    assert (asked["count"], asked["correct"], asked["parent_correct"]) == (2 * len(WORDS), len(WORDS), len(WORDS))
    assert made[mix.variant]["gate"][0]["owner"] == "Ada"
    shown = page.read_text()
    assert mix.variant in shown
    assert "blk.0.ffn_down.weight" in shown, "what each tensor costs"
    assert page.with_suffix(".json").is_file()
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    again = json.loads(run("models", "report", "tiny", tmp_path / "again.html", "--json").stdout)
    assert all(Path(again[kind]).is_file() for kind in ("html", "json", "png"))
    assert again["variants"] == [f"tiny:{mix.variant}", "tiny:q8_0"]
    assert (tmp_path / "again.html").read_text() == shown
    assert "no variant of 'absent' has been measured" in run("models", "report", "absent", page, code=2).output
    assert (
        "upper bound of kl" in run("models", "promote", "tiny:q8_0", "--owner", "Ada", "--gate", "kl<=0", code=2).output
    )
    assert "candidate" in run("models", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gate", "kl<=0.1"], "--owner"),
        (["--budget", "5"], "--fit"),
        (["--refine"], "--fit"),
        (["--fit", "size>=1"], "'<='"),
        (["--fit", "speed<=1"], "decode"),
        (["--types", "onnx-int3"], "onnx-int8"),
        (["--types", "iq2_xs"], "--imatrix auto"),
        (["--calibrate", "absent.txt", "--fit", "size<=1MB"], "no such file"),
        (["--tasks", "absent.jsonl"], "no such file"),
        (["--owner", " "], "owner"),
        (["--report", "absent/out.html"], "no folder 'absent'"),
        (["--report", "."], "is a folder"),
        (["--calibrate", __file__, "--text", __file__], "also calibrated on"),
        (["--calibrate", SHIPPED, "--measure"], "also calibrated on"),
    ],
)
def test_a_mistake_is_told_before_anything_is_built(arguments: list[str], said: str, folder: Path, home: Path) -> None:
    result = run("quantize", folder, "-o", "mistaken", *arguments, code=2)
    assert said in result.output
    assert not (home / "models" / "mistaken").exists()


def test_a_matrix_of_ours_says_its_text(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (parent,) = build(folder, ["f16"], store=store)
    collect(store.path(parent), CALIBRATION, threads=1).save(tmp_path / "imatrix.gguf")
    (made,) = build(folder, ["q4_0"], store=store, imatrix=tmp_path / "imatrix.gguf")
    assert made.calibration is not None
    assert made.calibration.text_sha256 == CALIBRATION.sha256
    with pytest.raises(UsageError, match="calibrated on the text"):
        measure([made.ref], text=CALIBRATION, store=store)


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_a_source_with_weights_that_are_not_finite_is_not_kept_either(kind: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (sound,) = build(write_decoder(tmp_path / "sound.gguf", layers=1), [kind], store=store)
    info = inspect(store.path(sound))
    tensor = next(t for t in info.tensors if t.name == "blk.0.ffn_up.weight")
    damaged = tmp_path / "damaged.gguf"
    content = bytearray(info.path.read_bytes())
    content[tensor.offset + 40 : tensor.offset + 44] = b"\xff\xff\xff\xff"  # NaN in all three
    damaged.write_bytes(content)
    for types in (None, ["q4_0"]):
        with pytest.raises(ModelError, match="ffn_up"):
            build(damaged, types, store=store)
    assert [m.ref for m in store.list()] == [sound.ref]
