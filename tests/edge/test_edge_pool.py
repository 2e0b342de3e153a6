"""Several models share one budget: who is loaded, who gives way, who waits, and what is refused with which numbers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.edge.memory import Estimate
from foreshore.edge.pool import Place, Pool
from foreshore.errors import SetupError, Unavailable

PATIENCE_S = 30.0
GIB = 1 << 30


class Machine:
    """Memory that tenants take when they are loaded and give back when they are unloaded."""

    def __init__(self, total: int) -> None:
        self.total, self.taken = total, 0

    def free(self) -> int:
        return self.total - self.taken


class Tenant:
    """Holds all that its estimate says from the moment it is loaded."""

    thread_count = 1

    def __init__(self, machine: Machine, size: int) -> None:
        self.machine, self.size = machine, size
        self.unloads, self.held = 0, 0

    def load(self) -> None:
        self.held = self.size
        self.machine.taken += self.size

    def unload(self) -> None:
        self.machine.taken -= self.held
        self.held = 0
        self.unloads += 1

    def private_bytes(self) -> int:
        return self.held

    def set_threads(self, threads: int | None) -> None:
        raise AssertionError("nobody governs this pool")


class Models:
    """A pool on a small machine, with a clock that the test turns."""

    def __init__(self, total: int, **limits: Any) -> None:
        self.now = 0.0
        self.machine = Machine(total)
        self.pool = Pool(free=self.machine.free, clock=lambda: self.now, **limits)
        self.tenants: dict[str, Tenant] = {}
        self.places: dict[str, Place] = {}

    def add(self, name: str, size: int, *, keep_alive: float | None = None, before: str | None = None) -> Place:
        tenant = self.tenants[name] = Tenant(self.machine, size)
        place = Place(name, tenant, keep_alive=keep_alive, before=None if before is None else self.places[before])
        self.places[name] = place
        self.pool.add(place)
        return place

    def load(self, name: str) -> None:
        place, tenant = self.places[name], self.tenants[name]
        self.pool.claim(place, need(tenant.size))
        tenant.load()
        self.now += 1

    def use(self, name: str) -> None:
        assert self.pool.enter(self.places[name]) is None

    def leave(self, name: str) -> None:
        self.pool.leave(self.places[name])
        self.now += 1

    @property
    def loaded(self) -> set[str]:
        return {name for name, place in self.places.items() if place.loaded}


def need(total: int, **fields: Any) -> Estimate:
    return Estimate(**{"weights": total, "cache": 0, "buffers": 0, **fields})


def eventually(condition: Callable[[], bool]) -> None:
    turn = threading.Event()
    for _ in range(int(PATIENCE_S / 0.005)):
        if condition():
            return
        turn.wait(0.005)
    raise AssertionError("waited in vain")


def test_what_fits_stays_loaded() -> None:
    models = Models(10)
    for name in "abc":
        models.add(name, 3)
        models.load(name)
    assert models.loaded == {"a", "b", "c"}
    assert models.pool.reserved == 9


def test_the_model_unused_for_longest_gives_way_and_no_more_than_needed() -> None:
    models = Models(9)
    for name in "abc":
        models.add(name, 3)
        models.load(name)
    models.use("a")
    models.leave("a")
    models.add("d", 3)
    models.load("d")
    assert models.loaded == {"a", "c", "d"}
    models.add("e", 6)
    models.load("e")
    assert models.loaded == {"d", "e"}


def test_a_model_in_use_is_not_unloaded_but_waited_for() -> None:
    models = Models(5)
    models.add("a", 3)
    models.load("a")
    models.use("a")
    models.add("b", 3)
    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(models.load, "b")
        eventually(lambda: models.places["a"].gone is not None)
        assert models.tenants["a"].unloads == 0
        late = models.pool.enter(models.places["a"])  # who comes now waits, so that b gets its turn
        assert late is not None
        models.leave("a")
        loading.result(PATIENCE_S)
        assert late.done()
    assert models.loaded == {"b"}
    assert models.pool.enter(models.places["a"]) is None


def test_a_refusal_says_the_numbers_and_unloads_nothing() -> None:
    models = Models(3 * GIB)
    models.add("small", GIB)
    models.load("small")
    huge = models.add("huge", 0)
    wanted = need(2 * GIB, cache=GIB, buffers=GIB, cell=1 << 16, smaller_cache=GIB // 4)
    with pytest.raises(SetupError) as caught:
        models.pool.claim(huge, wanted)
    assert caught.value.message == (
        "huge needs 4.0 GiB (weights 2.0 GiB, cache 1.0 GiB, buffers 1.0 GiB), 3.0 GiB is free"
    )
    assert caught.value.hint == "choose a smaller variant"
    with pytest.raises(SetupError) as caught:
        models.pool.claim(huge, need(GIB, cache=3 * GIB, cell=1 << 16, smaller_cache=GIB, kv_tokens=49152))
    assert caught.value.hint == "choose kv_tokens <= 32768, kv_type q8_0, or a smaller variant"
    # Of the buffers, 16 KiB for each token of the cache: with fewer tokens they shrink too.
    wide = need(GIB, cache=3 * GIB, buffers=GIB, cell=1 << 16, kv_tokens=49152, mask_cell=1 << 14)
    with pytest.raises(SetupError) as caught:
        models.pool.claim(huge, wide)
    assert caught.value.hint == "choose kv_tokens <= 22784, or a smaller variant"
    assert models.loaded == {"small"}
    assert models.tenants["small"].unloads == 0


def test_a_budget_and_a_number_of_models_bound_as_the_machine_does() -> None:
    models = Models(100, memory=7)
    for name in "ab":
        models.add(name, 3)
        models.load(name)
    models.add("c", 3)
    models.load("c")
    assert models.loaded == {"b", "c"}
    with pytest.raises(SetupError, match=r"allowed by runtime\.memory"):
        models.pool.claim(models.add("d", 8), need(8))
    counted = Models(100, models=1)
    for name in "ab":
        counted.add(name, 3)
        counted.load(name)
    assert counted.loaded == {"b"}


def test_memory_that_a_loaded_model_has_not_touched_yet_is_promised() -> None:
    models = Models(10)
    a = models.add("a", 6)
    models.pool.claim(a, need(6))  # it will take 6, but holds nothing yet
    models.use("a")
    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(models.pool.claim, models.add("b", 6), need(6))
        eventually(lambda: a.gone is not None)
        models.leave("a")
        loading.result(PATIENCE_S)
    assert models.loaded == {"b"}


def test_a_successor_takes_the_place_of_the_one_before_it_rather_than_of_a_busy_third() -> None:
    models = Models(6)
    for name in "ab":
        models.add(name, 3)
        models.load(name)
        models.use(name)
    models.add("b2", 3, before="b")
    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(models.load, "b2")
        eventually(lambda: models.places["b"].gone is not None)
        models.leave("b")
        loading.result(PATIENCE_S)
    assert models.loaded == {"a", "b2"}


def test_closing_ends_the_wait_for_room() -> None:
    models = Models(5)
    models.add("a", 3)
    models.load("a")
    models.use("a")
    b = models.add("b", 3)
    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(models.load, "b")
        eventually(lambda: models.places["a"].gone is not None)
        models.pool.close(b)
        with pytest.raises(Unavailable, match="closed"):
            loading.result(PATIENCE_S)
    assert models.loaded == {"a"}
    assert models.pool.enter(models.places["a"]) is None, "it is no longer being vacated"


def test_keep_alive_zero_unloads_at_once_and_none_never() -> None:
    models = Models(10)
    for name, keep_alive in {"now": 0.0, "never": None}.items():
        models.add(name, 3, keep_alive=keep_alive)
        models.load(name)
        models.use(name)
        models.leave(name)
    eventually(lambda: models.loaded == {"never"})
    assert models.tenants["now"].unloads == 1


def test_a_model_that_comes_into_use_again_outlives_its_keep_alive() -> None:
    models = Models(10)
    models.add("a", 3, keep_alive=5.0)
    models.load("a")
    models.use("a")
    models.leave("a")
    models.use("a")
    models.now += 100
    assert models.loaded == {"a"}
    models.leave("a")
    assert models.loaded == {"a"}
    models.pool.close(models.places["a"])  # ends the thread that waits for its time


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["load", "use", "leave"])), max_size=40))
def test_promises_never_pass_the_machine_and_nothing_in_use_is_unloaded(steps: list[tuple[str, str]]) -> None:
    models = Models(10)
    users: dict[str, int] = {}
    for name in "abcdef":
        models.add(name, 1 + ord(name) - ord("a"))
    for name, step in steps:
        busy = sum(models.tenants[n].size for n, count in users.items() if count and models.places[n].loaded)
        if step == "load" and not models.places[name].loaded and busy + models.tenants[name].size <= 10:
            before = {n for n in models.loaded if users.get(n)}
            models.load(name)
            assert before <= models.loaded
        elif step == "use" and models.places[name].loaded:
            models.use(name)
            users[name] = users.get(name, 0) + 1
        elif step == "leave" and users.get(name):
            models.leave(name)
            users[name] -= 1
        assert models.pool.reserved <= 10
        assert models.machine.free() >= 0
