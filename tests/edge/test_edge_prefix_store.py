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

from foreshore.edge.prefix.store import MIN_TOKENS, SPARE, PrefixStore, open_store
from foreshore.errors import ConfigError, SetupError

TOKENS = list(range(1000, 1100))
STATE = bytes(range(256)) * 8
PATIENCE_S = 60.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prefixes"


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.kv"))


def load(store: PrefixStore, tokens: list[int], tenant: str = "alice") -> tuple[int, bytes] | None:
    """How many of the tokens are there, and the state; b"" if it was there no more."""
    found = store.match(tenant, tokens)
    if found is None:
        return None
    read = found.read()
    if read is not None:
        assert read[0][: found.ready] == tokens[: found.ready]
        assert len(read[0]) == found.cells
    return found.ready, b"" if read is None else read[1]


def test_the_longest_common_beginning_is_found_after_a_restart(folder: Path) -> None:
    store = PrefixStore(folder, "model")
    other = [*TOKENS[:70], *range(200)]
    store.put("alice", TOKENS, b"one")
    store.put("alice", other, b"other")
    for found in (store, PrefixStore(folder, "model")):
        assert load(found, [*TOKENS, 7, 8]) == (100, b"one")
        assert load(found, TOKENS[:99]) == (99, b"one")
        assert load(found, [*TOKENS[:80], 0, 0]) == (80, b"one")
        assert load(found, [*TOKENS[:70], 0, 1, 0]) == (72, b"other")
        assert load(found, [*TOKENS[:65], 0]) == (65, b"one"), "the shorter of two that serve"
        assert load(found, [*TOKENS[:63], 0]) is None
        assert load(found, [0, *TOKENS]) is None
        assert load(found, []) is None


def test_a_beginning_is_not_kept_beside_one_that_serves_as_well(folder: Path) -> None:
    store = PrefixStore(folder, "model")
    store.put("alice", TOKENS[:80], b"80")
    store.put("alice", TOKENS, b"100")
    assert load(store, TOKENS[:80]) == (80, b"100")
    store.put("alice", TOKENS[:70], b"70")
    assert len(store) == len(entries(folder)) == 1
    longer = [*TOKENS, *range(SPARE * 100)]
    store.put("alice", longer, b"longer")
    assert load(store, TOKENS) == (100, b"100"), "far longer ones take far longer to read"
    assert load(store, longer[:150]) == (150, b"longer")
    assert store.serves("alice", TOKENS)
    assert not store.serves("alice", longer[:110])
    assert not store.serves("bob", TOKENS)


def test_what_another_process_put_in_its_place_is_found_at_the_second_try(folder: Path) -> None:
    ours = PrefixStore(folder, "model")
    ours.put("alice", TOKENS[:80], b"80")
    PrefixStore(folder, "model").put("alice", TOKENS, b"100")
    assert load(ours, TOKENS) == (80, b"")
    assert load(ours, TOKENS) == (100, b"100")


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
def test_a_file_that_was_cut_off_is_removed_and_named(
    folder: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    PrefixStore(folder, "model").put("alice", TOKENS, STATE)
    (file,) = entries(folder)
    file.write_bytes(file.read_bytes()[:size])
    with caplog.at_level(logging.WARNING, "foreshore"):
        assert len(PrefixStore(folder, "model")) == 0
    assert [record.message for record in caplog.records] == [
        f"the prefix cache in {folder} removes {file.name!r}: it is damaged"
    ]
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


def test_what_is_not_its_own_is_left_alone_and_named_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = PrefixStore(folder, "model")
    (folder / "notes.kv").write_text("mine")
    (folder / "tenants.txt").write_text("mine")
    with caplog.at_level(logging.WARNING, "foreshore"):
        for i in range(3):
            store.put("alice", [i, *TOKENS], STATE)
    assert [record.message for record in caplog.records] == [
        f"the prefix cache in {folder} leaves 'notes.kv' alone: it is not its own"
    ]
    assert (folder / "notes.kv").read_text() == "mine"
    assert len(store) == 3


def test_an_entry_that_vanished_is_a_miss(folder: Path) -> None:
    store = PrefixStore(folder, "model")
    store.put("alice", TOKENS, STATE)
    entries(folder)[0].unlink()
    assert load(store, TOKENS) == (100, b"")
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


def test_where_no_folder_can_be_is_an_error_of_the_config(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for nonsense in ("file", "file/below", "loop", "x" * 300, "zero\0"):
        with pytest.raises(ConfigError, match="where no folder can be"):
            open_store(str(tmp_path / nonsense), "model")
    with pytest.raises(ConfigError, match="where no folder can be"):
        open_store("~nobody-has-this-name/prefixes", "model")


def test_a_first_start_on_a_full_disk_goes_on_without(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "foreshore"), no_file_beyond(0):
        assert open_store(str(folder), "model") is None
    assert [record.message for record in caplog.records] == [
        f"no prefix cache on disk: {folder} cannot be used: File too large"
    ]
    assert list(folder.iterdir()) == []
    assert open_store(str(folder), "model") is not None


def test_a_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
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
        assert load(store, prompt) in (None, (101, b""), (101, STATE))


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
    wrong: list[object] = []

    def work(seed: int) -> None:
        for i in range(40):
            prompt = [(seed * i) % 13, *TOKENS]
            store.put("alice", prompt, STATE)
            found = load(store, prompt)
            wrong.extend([] if found in (None, (101, b""), (101, STATE)) else [found])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (3, 5, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert wrong == []
    assert len(store) == len(entries(folder))


def shared(one: list[int], other: list[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


Prompts = st.lists(st.lists(st.integers(0, 3), max_size=3), max_size=6)


@settings(max_examples=40, deadline=None)
@given(Prompts, st.lists(st.integers(0, 3), max_size=5))
def test_it_finds_what_a_list_would_find(endings: list[list[int]], asked: list[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o700)
        store = PrefixStore(folder, "model")
        for i, ending in enumerate(endings, 1):
            store.put("alice", [*TOKENS, *ending], b"%d" % i)
        prompt = [*TOKENS, *asked]
        common = max((100 + shared(ending, asked) for ending in endings), default=None)
        for found in (store, PrefixStore(folder, "model")):
            match = load(found, prompt)
            assert (match and match[0]) == common
            if match is not None:
                ending = endings[int(match[1]) - 1]
                assert 100 + shared(ending, asked) == common
