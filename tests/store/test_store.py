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
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foreshore.disk import disk_errors, require_space, sha256
from foreshore.errors import ModelError, NotFound, SetupError, UsageError
from foreshore.manifest import FileRecord, Manifest, Source
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


def put(store: Store, name: str = "m", variant: str = "q8_0", content: bytes = b"weights") -> Manifest:
    made = manifest(name, variant, content)
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


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
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
    assert "5000 bytes needed" in made.stdout


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
