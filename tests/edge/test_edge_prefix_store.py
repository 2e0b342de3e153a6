"""Beginnings of prompts on disk: found again after a restart, by their tenant alone, never damaged, never too many."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.edge.prefix.store import MIN_TOKENS, PrefixStore
from foreshore.errors import SetupError

TOKENS = list(range(1000, 1100))
STATE = bytes(range(256)) * 8
PATIENCE_S = 60.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prefixes"


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.kv"))


def load(store: PrefixStore, tokens: list[int], tenant: str = "alice") -> tuple[int, bytes] | None:
    found = store.match(tenant, tokens)
    return None if found is None else (found[0], found[1]())


def test_the_longest_beginning_is_found_after_a_restart(folder: Path) -> None:
    store = PrefixStore(folder, "model")
    for n in (64, 80, 100):
        store.put("alice", TOKENS[:n], b"%d" % n)
    for found in (store, PrefixStore(folder, "model")):
        assert load(found, [*TOKENS, 7, 8]) == (100, b"100")
        assert load(found, TOKENS[:99]) == (80, b"80")
        assert load(found, [*TOKENS[:70], 0, 0]) == (64, b"64")
        assert load(found, TOKENS[:63]) is None
        assert load(found, [0, *TOKENS]) is None
        assert load(found, []) is None


def test_tenants_and_models_do_not_find_each_others(folder: Path) -> None:
    PrefixStore(folder, "model").put("alice", TOKENS, STATE)
    assert load(PrefixStore(folder, "model"), TOKENS, "bob") is None
    assert load(PrefixStore(folder, "another"), TOKENS) is None
    assert load(PrefixStore(folder, "model"), TOKENS) == (100, STATE)


def test_what_is_too_short_or_too_large_or_nothing_is_not_kept(folder: Path) -> None:
    store = PrefixStore(folder, "model", max_bytes=4096)
    store.put("alice", TOKENS[: MIN_TOKENS - 1], STATE)
    store.put("alice", TOKENS, b"")
    store.put("alice", TOKENS, b"x" * 4096)
    assert len(store) == 0
    assert entries(folder) == []


def test_files_are_for_their_owner_and_tell_no_tenant(folder: Path) -> None:
    store = PrefixStore(folder, "model")
    store.put("alice-the-tenant", TOKENS, STATE)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert b"alice" not in file.read_bytes()
        assert "alice" not in file.name
    other = PrefixStore(folder.with_name("other"), "model")
    other.put("alice-the-tenant", TOKENS, STATE)
    assert entries(folder)[0].name != entries(other.folder)[0].name, "a tenant's hash could be looked up elsewhere"


@pytest.mark.parametrize("place", [0, 10, 50, 90, 108, 114, 116, 120, 600, -1])
def test_a_damaged_file_is_removed_and_a_miss(folder: Path, place: int) -> None:
    store = PrefixStore(folder, "model")
    store.put("alice", TOKENS, STATE)
    (file,) = entries(folder)
    raw = bytearray(file.read_bytes())
    raw[place] ^= 1
    file.write_bytes(raw)
    assert load(store, TOKENS) == (100, b"")
    assert entries(folder) == []
    assert load(store, TOKENS) is None
    file.write_bytes(raw)
    assert load(PrefixStore(folder, "model"), TOKENS) in (None, (100, b""))
    assert entries(folder) == []


@pytest.mark.parametrize("size", [0, 1, 100, 116, 300, -1])
def test_a_file_that_was_cut_off_is_removed(folder: Path, size: int) -> None:
    PrefixStore(folder, "model").put("alice", TOKENS, STATE)
    (file,) = entries(folder)
    file.write_bytes(file.read_bytes()[:size])
    assert len(PrefixStore(folder, "model")) == 0
    assert entries(folder) == []


def test_a_file_that_claims_to_be_huge_is_not_believed(folder: Path) -> None:
    PrefixStore(folder, "model").put("alice", TOKENS, STATE)
    (file,) = entries(folder)
    file.write_bytes(file.read_bytes()[:104] + b"\xff" * 12)
    assert len(PrefixStore(folder, "model")) == 0


def test_a_file_under_anothers_name_is_not_believed(folder: Path) -> None:
    store = PrefixStore(folder, "model")
    store.put("alice", TOKENS, STATE)
    store.put("bob", TOKENS, b"bob's")
    one, other = entries(folder)
    os.replace(one, other)
    again = PrefixStore(folder, "model")
    assert len(again) == 0


def test_an_entry_that_vanished_is_a_miss(folder: Path) -> None:
    store = PrefixStore(folder, "model")
    store.put("alice", TOKENS, STATE)
    found = store.match("alice", TOKENS)
    assert found is not None
    entries(folder)[0].unlink()
    assert found[1]() == b""
    assert store.match("alice", TOKENS) is None


def test_the_least_lately_used_makes_room(folder: Path) -> None:
    prompts = [[i, *TOKENS] for i in range(4)]
    store = PrefixStore(folder, "model", max_bytes=9000)  # three fit
    for i, prompt in enumerate(prompts[:3]):
        store.put("alice", prompt, STATE)
        age(folder, seconds=60 * (3 - i))
    assert load(store, prompts[0]) == (101, STATE)  # used: the second is the oldest now
    store.put("alice", prompts[3], STATE)
    kept = [load(store, prompt) is not None for prompt in prompts]
    assert kept == [True, False, True, True]
    assert sum(file.stat().st_size for file in entries(folder)) <= 9000


def age(folder: Path, *, seconds: float) -> None:
    """Let the newest entry look used so long ago."""
    newest = max(entries(folder), key=lambda file: file.stat().st_mtime_ns)
    os.utime(newest, (time.time() - seconds,) * 2)


def test_others_entries_count_and_age_away(folder: Path) -> None:
    PrefixStore(folder, "old model").put("alice", TOKENS, STATE)
    store = PrefixStore(folder, "new model", max_bytes=3000)
    store.put("alice", TOKENS, STATE)
    assert len(entries(folder)) == 1
    assert load(store, TOKENS) == (100, STATE)
    assert load(PrefixStore(folder, "old model"), TOKENS) is None


def test_drafts_of_a_killed_process_are_removed_and_fresh_ones_left(folder: Path) -> None:
    PrefixStore(folder, "model")
    stale, fresh = folder / "a.draft", folder / "b.draft"
    for draft in (stale, fresh):
        draft.write_bytes(b"half")
    os.utime(stale, (time.time() - 7200,) * 2)
    PrefixStore(folder, "model")
    assert not stale.exists()
    assert fresh.exists()


def test_what_the_disk_does_not_take_is_told_once_and_loses_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = PrefixStore(folder, "model")
    store.put("alice", TOKENS, STATE)
    with caplog.at_level(logging.WARNING, "foreshore"), no_file_beyond(1000):
        for i in range(3):
            store.put("alice", [i, *TOKENS], STATE)
    assert [record.message for record in caplog.records] == [
        f"the prefix cache in {folder} cannot be written: File too large"
    ]
    assert not list(folder.glob("*.draft"))
    assert load(store, TOKENS) == (100, STATE)
    store.put("alice", [9, *TOKENS], STATE)
    assert load(store, [9, *TOKENS]) == (101, STATE)


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """The system refuses to write longer files, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(SetupError, match="cannot be used"):
        PrefixStore(file / "below", "model")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(SetupError, match="others may write"):
        PrefixStore(shared, "model")


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    PrefixStore(folder, "model").put("alice", TOKENS, STATE)
    (file,) = entries(folder)
    os.replace(file, tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert load(PrefixStore(folder, "model"), TOKENS) is None


def test_a_damaged_key_is_replaced(folder: Path) -> None:
    PrefixStore(folder, "model").put("alice", TOKENS, STATE)
    (folder / "tenants.key").write_bytes(b"short")
    store = PrefixStore(folder, "model")
    assert load(store, TOKENS) is None
    store.put("alice", TOKENS, STATE)
    assert load(PrefixStore(folder, "model"), TOKENS) == (100, STATE)


def test_another_process_entries_are_found_once_ours_are_written(folder: Path) -> None:
    ours, theirs = PrefixStore(folder, "model"), PrefixStore(folder, "model")
    theirs.put("alice", TOKENS, STATE)
    ours.put("alice", [1, *TOKENS], STATE)
    assert load(ours, TOKENS) == (100, STATE)


def hammer(folder: Path, seed: int) -> None:
    store = PrefixStore(folder, "model", max_bytes=30_000)
    for i in range(60):
        prompt = [(seed * i) % 17, *TOKENS]
        store.put("alice", prompt, STATE)
        found = store.match("alice", prompt)
        assert found is None or found[1]() in (b"", STATE)


def test_two_processes_share_a_folder(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=hammer, args=(folder, seed)) for seed in (3, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE_S)
        assert worker.exitcode == 0
    store = PrefixStore(folder, "model")
    assert 0 < len(store) == len(entries(folder))
    assert not list(folder.glob("*.draft"))
    store = PrefixStore(folder, "model", max_bytes=30_000)
    store.put("alice", [99, *TOKENS], STATE)
    assert sum(file.stat().st_size for file in entries(folder)) <= 30_000


def test_threads_share_a_store(folder: Path) -> None:
    store = PrefixStore(folder, "model", max_bytes=30_000)
    wrong: list[bytes] = []

    def work(seed: int) -> None:
        for i in range(40):
            prompt = [(seed * i) % 13, *TOKENS]
            store.put("alice", prompt, STATE)
            found = store.match("alice", prompt)
            wrong.extend([] if found is None or (state := found[1]()) in (b"", STATE) else [state])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (3, 5, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert wrong == []
    assert len(store) == len(entries(folder))


Prompts = st.lists(st.lists(st.integers(0, 3), max_size=3), max_size=6)


@settings(max_examples=40, deadline=None)
@given(Prompts, st.lists(st.integers(0, 3), max_size=5))
def test_it_finds_what_a_list_would_find(endings: list[list[int]], asked: list[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o700)
        store = PrefixStore(folder, "model")
        kept = {(*TOKENS, *ending): b"%d" % i for i, ending in enumerate(endings, 1)}
        for tokens, state in kept.items():
            store.put("alice", tokens, state)
        prompt = (*TOKENS, *asked)
        fits = [tokens for tokens in kept if prompt[: len(tokens)] == tokens]
        best = max(fits, key=len, default=None)
        expected = None if best is None else (len(best), kept[best])
        assert load(store, list(prompt)) == expected
        assert load(PrefixStore(folder, "model"), list(prompt)) == expected
