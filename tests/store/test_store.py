"""The store: whole variants or none, found by name, checked at load, repaired after a crash."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from foreshore.card import Accuracy, Card, Device, Divergence, Interval, Segment, Similarity, Speed, Spread
from foreshore.disk import disk_errors, require_space, sha256
from foreshore.errors import ModelError, NotFound, SetupError, UsageError
from foreshore.manifest import Calibration, Decision, FileRecord, Manifest, Parent, Source, quality_sha256
from foreshore.store import Store, resolve


def manifest(name: str = "m", variant: str = "q8_0", content: bytes = b"weights", **changes: Any) -> Manifest:
    import hashlib

    record = FileRecord(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    made = Manifest(
        name=name,
        variant=variant,
        created="2026-01-02T03:04:05+00:00",
        source=Source(kind="folder", id="/models/m", files={"config.json": "00" * 32}),
        files={"model.gguf": record},
        recipe={"type": variant, "imatrix": None},
        tools={"foreshore": "0"},
        architecture="llama",
        parameters=10,
        bits_per_weight=8.5,
        context_length=128,
        seconds=1.5,
        notes=("a note",),
    )
    return replace(made, **changes)


def put(store: Store, name: str = "m", variant: str = "q8_0", content: bytes = b"weights", **changes: Any) -> Manifest:
    made = manifest(name, variant, content, **changes)
    with store.lock(name, variant), store.draft() as folder:
        (folder / "files").mkdir()
        (folder / "files" / "model.gguf").write_bytes(content)
        return store.add(made, folder / "files")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def test_what_is_added_is_found(store: Store) -> None:
    made = put(store)
    assert store.list() == (made,)
    assert store.get("m:q8_0") == store.get("m") == made
    assert store.path(made).read_bytes() == b"weights"
    assert store.resolve("m").path == store.path(made)
    assert store.verify(made) == ()
    assert made.ref == "m:q8_0"
    assert made.bytes == 7


def test_a_manifest_round_trips() -> None:
    made = manifest()
    assert Manifest.from_json(json.loads(made.dump())) == made


def card(share: float = 0.5) -> Card:
    """One with everything in it."""
    known = Interval(value=share, low=share / 2, high=share * 2)
    few = Spread(median=2.0, low=1.0, high=3.0, runs=3)
    device = Device(fingerprint="f", cpu="c", cores=2, memory_bytes=1 << 30, system="s", engine="e")
    return Card(
        divergence=Divergence(
            parent_sha256="11" * 32,
            text_sha256="22" * 32,
            documents=3,
            tokens=30,
            perplexity=known,
            parent_perplexity=known,
            kl_mean=known,
            kl_p99=known,
            same_top=known,
        ),
        accuracy=Accuracy(
            tasks_sha256="33" * 32,
            segments={"sums": Segment(count=4, correct=2, share=known, parent_correct=2, change=known)},
        ),
        similarity=Similarity(
            parent_sha256="11" * 32, text_sha256="22" * 32, documents=3, cosine_mean=known, cosine_min=0.5
        ),
        speeds=(Speed(device=device, date="2026-01-02", threads=2, load_s=few, peak_bytes=9, prefill=few, decode=few),),
    )


def decision(passed: bool = True, judged: Card | None = None) -> Decision:
    reasons = () if passed else ("kl was not measured",)
    digest = quality_sha256(judged)
    return Decision(rule="kl<=1", owner="Ada", date="2026-01-02", passed=passed, reasons=reasons, quality_sha256=digest)


def test_a_lineage_round_trips() -> None:
    made = manifest(
        recipe={"type": "mix", "tensors": {"output.weight": "q6_k"}},
        parent=Parent(sha256="44" * 32, ref="m:f16"),
        calibration=Calibration(imatrix_sha256="55" * 32, text_sha256="66" * 32),
        card=card(),
        gate=(decision(False), decision(judged=card())),
    )
    assert Manifest.from_json(json.loads(made.dump())) == made
    assert json.loads(made.dump())["state"] == made.state == "ready"


def test_a_manifest_of_the_first_schema_is_read(store: Store) -> None:
    made = put(store)
    path = store.folder(made) / "manifest.json"
    value = {**json.loads(path.read_text()), "schema": 1, "state": "ready"}
    for later in ("parent", "calibration", "card", "gate"):
        del value[later]
    path.write_text(json.dumps(value))
    assert store.get("m") == made


def test_the_state_follows_from_the_last_decision_and_what_it_judged() -> None:
    measured = manifest(card=card())
    passed, failed = decision(judged=card()), decision(False, judged=card())
    assert replace(measured, gate=(failed, passed)).state == "ready"
    assert replace(measured, gate=(passed, failed)).state == "candidate"
    assert replace(measured, gate=(passed,), card=card(0.25)).state == "candidate"
    assert replace(measured, gate=(passed,), card=replace(card(), speeds=())).state == "ready"
    assert (
        Manifest.from_json({**measured.to_json(), "gate": [{**asdict(failed)}], "state": "ready"}).state == "candidate"
    )


def test_a_whole_number_is_the_same_measurement_as_a_broken_one() -> None:
    assert quality_sha256(card(1)) == quality_sha256(Card.from_json(json.loads(json.dumps(card(1.0).to_json()))))


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 3},
        {"schema": None},
        {"files": {}},
        {"files": {"../x": {"sha256": "00" * 32, "bytes": 1}}},
        {"files": {"x": {"sha256": "zz", "bytes": 1}}},
        {"files": {"x": {"sha256": "00" * 32, "bytes": -1}}},
        {"files": None},
        {"source": {"kind": "moon", "id": "x"}},
        {"source": []},
        {"state": "half"},
        {"parameters": "many"},
        {"name": 5},
        {"surplus": 1},
        {"notes": "one"},
        {"parent": {"sha256": "zz"}},
        {"parent": {}},
        {"calibration": {"text_sha256": 5}},
        {"card": {"speeds": 5}},
        {"card": {"surplus": 1}},
        {"gate": {}},
        {"gate": [{"rule": "kl<=1", "owner": "Ada", "date": "2026-01-02", "passed": "yes"}]},
        {"recipe": {"tensors": {"output.weight": 6}}},
        {"recipe": {"tensors": ["q6_k"]}},
    ],
)
def test_a_malformed_manifest_is_refused_by_name(change: dict[str, Any], store: Store) -> None:
    made = put(store)
    path = store.folder(made) / "manifest.json"
    path.write_text(json.dumps({**made.to_json(), **change}))
    with pytest.raises(ModelError, match=r"manifest\.json"):
        store.get("m:q8_0")
    assert store.list() == ()
    assert len(store.broken()) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"schema": 1}', "\udcff"])
def test_what_is_no_manifest_is_refused(content: str, store: Store) -> None:
    path = store.folder(put(store)) / "manifest.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match=r"manifest\.json"):
        store.get("m")


def test_a_bare_name_needs_one_variant(store: Store) -> None:
    put(store), put(store, variant="q4_k_m")
    with pytest.raises(NotFound) as caught:
        store.get("m")
    assert "m:q4_k_m, m:q8_0" in str(caught.value.hint)


def test_a_bare_name_is_the_only_ready_variant(store: Store) -> None:
    made = put(store, variant="q8_0", gate=(decision(),))
    put(store, variant="q4_k_m", gate=(decision(False),))
    put(store, variant="q2_k", gate=(decision(False),))
    assert store.get("m") == made
    assert store.resolve("m").path == store.path(made)
    assert store.resolve("m:q2_k").manifest == store.get("m:q2_k")
    with pytest.raises(NotFound, match="3 variants"):
        store.remove("m")
    store.update("m:q2_k", lambda m: replace(m, gate=(decision(),)))
    with pytest.raises(NotFound, match="3 variants"):
        store.get("m")


def test_a_manifest_is_replaced_and_the_files_stay(store: Store) -> None:
    before = put(store)
    after = store.update("m", lambda m: replace(m, card=card()))
    assert store.get("m") == after == replace(before, card=card())
    assert store.verify(after) == ()
    assert store.path(after).read_bytes() == b"weights"
    assert list((store.root / ".tmp").glob("*/")) == []


@pytest.mark.parametrize("change", [{"name": "n"}, {"variant": "q4_0"}, {"files": {}}])
def test_a_change_cannot_touch_the_files_or_the_name(change: dict[str, Any], store: Store) -> None:
    before = put(store)
    with pytest.raises(ModelError, match="m:q8_0"):
        store.update("m", lambda m: replace(m, **change))
    assert store.list() == (before,)


NOTE = """
import sys
from dataclasses import replace
from pathlib import Path
from foreshore.store import Store
for i in range(20):
    Store(Path(sys.argv[1])).update("m", lambda m: replace(m, notes=(*m.notes, f"{sys.argv[2]}{i}")))
"""


def test_no_change_is_lost_where_two_change_at_once(store: Store) -> None:
    put(store)
    command = [sys.executable, "-c", NOTE, str(store.root)]
    for child in [subprocess.Popen([*command, name]) for name in ("a", "b")]:
        assert child.wait() == 0
    notes = store.get("m").notes[1:]
    for name in ("a", "b"):
        assert [n for n in notes if n[0] == name] == [f"{name}{i}" for i in range(20)]
    assert len(notes) == 40


def test_an_unknown_ref_names_the_closest_and_the_command(store: Store) -> None:
    put(store, "starter-s", "q4_k_m")
    with pytest.raises(NotFound) as caught:
        store.get("starter:q4_k_m")
    assert "starter-s:q4_k_m" in str(caught.value.hint)
    assert "foreshore quantize starter --types q4_k_m" in str(caught.value.hint)
    with pytest.raises(NotFound):
        store.get("")


@pytest.mark.parametrize("name", ["a/b", "..", ".x", "", "a b", "a:b", "a\\b", "-x", "x" * 101, "a\n"])
def test_a_name_that_leads_elsewhere_is_refused(name: str, store: Store) -> None:
    with pytest.raises(UsageError), store.lock(name, "q8_0"):
        pass
    with pytest.raises(NotFound):
        store.get(f"{name}:../../x")


def test_damage_is_noticed(store: Store) -> None:
    made = put(store)
    path = store.path(made)
    path.write_bytes(b"weighty")
    assert store.verify(made) == ("'model.gguf' has another SHA-256",)
    with pytest.raises(ModelError, match="another SHA-256"):
        store.resolve("m")
    path.write_bytes(b"weight")
    assert store.verify(made) == ("'model.gguf' has 6 bytes, not 7",)
    path.unlink()
    (path.parent / "extra").touch()
    assert store.verify(made) == ("'model.gguf' is missing", "unknown file 'extra'")
    with pytest.raises(ModelError, match="missing"):
        store.resolve("m")


def test_a_touched_file_is_hashed_once_more(store: Store) -> None:
    path = store.path(put(store))
    os.utime(path, ns=(1, 1))
    assert store.resolve("m").path == path
    checked = json.loads((path.parent / ".checked.json").read_text())
    assert checked["model.gguf"][1] == 1


def test_only_a_full_check_sees_a_change_that_hides_its_time(store: Store) -> None:
    made = put(store)
    path = store.path(made)
    before = path.stat().st_mtime_ns
    path.write_bytes(b"weighty")
    os.utime(path, ns=(before, before))
    assert store.resolve("m").path == path
    assert store.verify(made) == ("'model.gguf' has another SHA-256",)


def test_resolve_takes_a_file_outside_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHORE_HOME", str(tmp_path / "home"))
    path = tmp_path / "m.gguf"
    path.touch()
    assert resolve(str(path)).path == path
    assert resolve(str(path)).manifest is None
    for missing in ("x.gguf", str(tmp_path / "y")):
        with pytest.raises(NotFound, match="no such file"):
            resolve(missing)
    with pytest.raises(NotFound, match="no variant"):
        resolve("m:q8_0")


def test_a_new_build_replaces_the_old(store: Store) -> None:
    put(store)
    put(store, content=b"other")
    assert store.path(store.get("m")).read_bytes() == b"other"
    assert list((store.root / ".tmp").glob("*/")) == []


def test_removal_leaves_nothing(store: Store) -> None:
    put(store), put(store, variant="q4_0")
    store.remove("m:q8_0")
    assert [m.ref for m in store.list()] == ["m:q4_0"]
    store.remove("m")
    assert not (store.root / "m").exists()
    with pytest.raises(NotFound):
        store.remove("m")


def test_a_failed_build_leaves_nothing(store: Store) -> None:
    drafts: list[Path] = []

    def fail() -> None:
        with store.draft() as folder:
            drafts.append(folder)
            (folder / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not drafts[0].exists()
    assert store.list() == ()


HOLD = """
import sys
from pathlib import Path
from foreshore.store import Store
store = Store(Path(sys.argv[1]))
with store.lock("m", "q8_0"), store.draft() as folder:
    (folder / "half").write_bytes(b"half")
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(store: Store) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process that holds m:q8_0 and has a draft."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    assert child.stdin
    try:
        yield child, Path(child.stdout.readline().strip())
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def test_a_killed_build_is_swept_and_a_living_one_is_not(store: Store) -> None:
    with holder(store) as (child, folder):
        assert (folder / "half").exists()
        with store.draft():
            assert folder.exists()
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert folder.exists()
        assert store.list() == ()
        with store.draft():
            assert not folder.exists()
        put(store)


def test_a_second_builder_waits_for_the_first(store: Store) -> None:
    with holder(store) as (child, _):
        assert child.stdin
        stdin = child.stdin
        waited: list[bool] = []

        def waiting() -> None:
            waited.append(True)
            stdin.close()  # lets the other one finish

        with store.lock("m", "q8_0", waiting):
            assert child.wait(timeout=30) == 0
        assert waited == [True]


def test_a_full_disk_is_reported_in_bytes(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=rf"{1 << 60} bytes needed, \d+ free"):
        require_space(tmp_path, 1 << 60)


LIMITED = """
import sys
from pathlib import Path
from foreshore.errors import SetupError
from foreshore.disk import disk_errors
try:
    with disk_errors(Path(sys.argv[1]), 5000):
        (Path(sys.argv[1]) / "x").write_bytes(bytes(5000))
except SetupError as error:
    print(error.message)
"""


def test_a_write_that_hits_a_limit_is_reported(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "File too large" in made.stdout, "not that the disk is full: it is not"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    with pytest.raises(SetupError, match="blocked"), disk_errors(blocked):
        raise PermissionError(13, "Permission denied")


def test_sha256_tells_its_progress(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    seen: list[int] = []
    assert sha256(path, seen.append) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert seen == [3]
