"""Who is suspected of a worker's death, for how long, and who is not."""

from __future__ import annotations

from foreshore.edge.heartbeat import BOOT_S, Heartbeat
from foreshore.edge.quarantine import DEATHS, KEEP_S, REMEMBERED, Quarantine


def test_the_second_death_puts_a_request_in_quarantine_and_success_forgives_the_first() -> None:
    quarantine = Quarantine()
    quarantine.blame({"poison", "bystander"})
    assert not quarantine.holds("poison")
    quarantine.absolve("bystander")
    quarantine.blame({"poison", "newcomer"})
    assert quarantine.holds("poison")
    assert quarantine.deaths("newcomer") == 0, "the one that was there both times is to blame"
    assert quarantine.deaths("bystander") == 0
    assert not quarantine.holds("pois0n")


def test_it_ends_after_a_while_and_when_cleared() -> None:
    now = [0.0]
    quarantine = Quarantine(clock=lambda: now[0])
    for _ in range(DEATHS):
        quarantine.blame({"a"})
    assert quarantine.holds("a")
    assert quarantine.held == 1
    now[0] += KEEP_S + 1
    assert not quarantine.holds("a")
    quarantine.blame({"b"})
    assert quarantine.held == 0
    quarantine.blame({"b"})
    assert quarantine.held == 1
    quarantine.clear()
    assert not quarantine.holds("b")


def test_it_never_grows_without_bound() -> None:
    quarantine = Quarantine()
    for i in range(3 * REMEMBERED):
        quarantine.blame({str(i)})
    assert len(quarantine) == REMEMBERED


def test_a_silent_worker_is_lost_within_its_limit_and_asked_four_times_before() -> None:
    heart = Heartbeat(4.0, now=0.0)
    heart.heard(0.0)
    now, pings = 0.0, 0
    while not heart.lost(now):
        now += heart.wait_s(now)
        heart.turn(now)
        pings += heart.ping(now) is not None
    assert now == 4.0
    assert pings >= 3


def test_a_worker_that_answers_is_never_lost() -> None:
    heart = Heartbeat(4.0, now=0.0)
    now = 0.0
    for _ in range(100):
        now += heart.wait_s(now)
        heart.turn(now)
        if heart.ping(now) is not None:
            heart.heard(now)
        assert not heart.lost(now)


def test_a_pause_of_our_own_is_not_held_against_the_worker() -> None:
    heart = Heartbeat(4.0, now=0.0)
    heart.heard(0.0)
    heart.turn(1.0)
    heart.turn(600.0)
    assert not heart.lost(600.0)
    assert heart.lost(604.0)


def test_a_worker_has_longer_while_it_loads() -> None:
    heart = Heartbeat(4.0, now=0.0)
    assert not heart.lost(BOOT_S - 1)
    assert heart.lost(BOOT_S)
    heart.heard(1.0, loaded=False)
    assert not heart.lost(BOOT_S)
    assert heart.lost(BOOT_S + 1)
    heart.heard(2.0)
    assert heart.lost(6.0)
    heart.heard(3.0, loaded=False)
    assert heart.lost(7.0)
