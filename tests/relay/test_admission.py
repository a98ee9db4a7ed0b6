"""Admission of unauthenticated connections, with a simulated clock."""

from __future__ import annotations

import pytest

from tunnel.net.token_bucket import Rate
from tunnel.relay import admission, backoff
from tunnel.relay.admission import (
    BESIDE,
    EXPECTED,
    HASTE,
    KNOWN,
    MOST_SOURCES,
    MOST_STRANGERS,
    PROOFS,
    STRANGER,
    STRANGERS,
    Admission,
    AdmissionSlot,
    SourceClass,
    Table,
)

NOW = 1000.0


def place(source: str, since: float = NOW) -> AdmissionSlot:
    return AdmissionSlot(source, SourceClass.STRANGER, since)


def admit(
    admitting: Admission, source: str, standing: SourceClass = SourceClass.STRANGER, now: float = NOW
) -> AdmissionSlot:
    admitted, _ = admitting.admit(source, standing, now)
    assert admitted is not None
    return admitted


@pytest.fixture
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates that are never reached, for the tests of slots."""
    monkeypatch.setattr(admission, "STRANGERS", Rate(1e9, 0))
    monkeypatch.setattr(admission, "_RATES", {each: Rate(1e9, 0) for each in SourceClass})


# Slots.


def test_full_table_drops_the_oldest_of_the_source_that_has_most() -> None:
    table = Table(5)
    many = [place("198.51.100.1") for _ in range(3)]
    few = [place("192.0.2.1"), place("192.0.2.2")]
    for each in (few[0], *many, few[1]):
        assert table.add(each, NOW) == []
    assert table.add(place("192.0.2.3"), NOW) == [many[0]]
    assert table.add(place("192.0.2.4"), NOW) == [many[1]]
    assert table.add(place("192.0.2.5"), NOW) == [few[0]], "now all have one"
    assert len(table) == 5


def test_source_displaces_its_own_connections() -> None:
    table = Table(5)
    peer = place("192.0.2.1")
    table.add(peer, NOW)
    for _ in range(1000):
        assert peer not in table.add(place("198.51.100.1"), NOW)


def test_new_connection_is_not_dropped_first_in_a_flood_from_its_source() -> None:
    table = Table(MOST_STRANGERS)
    for _ in range(1000):
        table.add(place("198.51.100.1"), NOW)
    newcomer = place("198.51.100.1")
    table.add(newcomer, NOW)
    for _ in range(MOST_STRANGERS - 1):
        assert newcomer not in table.add(place("198.51.100.1"), NOW)
    assert table.add(place("198.51.100.1"), NOW) == [newcomer]


def test_half_full_table_has_a_shorter_timeout() -> None:
    table = Table(6)
    old = [place("192.0.2.1", NOW), place("192.0.2.2", NOW + 1)]
    for each in old:
        table.add(each, each.since)
    assert table.add(place("192.0.2.3", NOW + HASTE), NOW + HASTE) == [], "there was still room"
    assert table.add(place("192.0.2.4", NOW + HASTE), NOW + HASTE) == [old[0]]
    table.remove(old[0])  # as its owner does: no effect
    assert len(table) == 3


def test_closed_connections_are_not_counted(plenty: None) -> None:
    admitting = Admission(0, NOW)
    for _ in range(3 * MOST_STRANGERS):
        admitting.leave(admit(admitting, "198.51.100.1"))
    assert len(admitting) == 0


def test_strangers_use_no_slots_of_peers(plenty: None) -> None:
    admitting = Admission(2, NOW)
    peer = admit(admitting, "192.0.2.1", SourceClass.KNOWN)
    for number in range(1000):
        _, gone = admitting.admit(f"198.51.100.{number % 250}", SourceClass.STRANGER, NOW)
        assert peer not in gone
    assert len(admitting) == MOST_STRANGERS + 1


def test_all_peers_may_connect_at_the_same_time(plenty: None) -> None:
    admitting = Admission(1000, NOW)
    for number in range(1000):
        assert admitting.admit(f"10.0.{number // 250}.{number % 250}", SourceClass.EXPECTED, NOW)[1] == []


# Rates.


def served(admitting: Admission, source: str, standing: SourceClass, seconds: float, per_second: int) -> int:
    """Return how many of ``per_second`` connections for ``seconds`` are admitted; each ends immediately."""
    count = 0
    for number in range(int(seconds * per_second)):
        admitted, _ = admitting.admit(source, standing, NOW + number / per_second)
        if admitted is not None:
            count += 1
            admitting.leave(admitted)
    return count


@pytest.mark.parametrize(
    ("standing", "rate"),
    [
        (SourceClass.STRANGER, STRANGER),
        (SourceClass.KNOWN, KNOWN),
        (SourceClass.EXPECTED, EXPECTED),
        (SourceClass.BESIDE, BESIDE),
    ],
)
def test_a_source_has_a_rate(standing: SourceClass, rate: Rate) -> None:
    count = served(Admission(1, NOW), "192.0.2.1", standing, 60, 1000)
    assert count == pytest.approx(rate.burst + 60 * rate.per_second, abs=2)


def test_flood_of_ten_thousand_a_minute_does_not_lock_out_an_expected_peer() -> None:
    """Even from the peer's own address."""
    assert served(Admission(1, NOW), "192.0.2.1", SourceClass.EXPECTED, 60, 167) == 60 * 167


def test_peer_whose_lane_was_cut_is_admitted_immediately_beside_others_too() -> None:
    """An earlier flood from its address does not count: it used another rate while the peer had its lanes."""
    admitting = Admission(2, NOW)
    assert served(admitting, "192.0.2.1", SourceClass.KNOWN, 60, 167) < 60 * 167
    assert served(admitting, "192.0.2.1", SourceClass.BESIDE, 0.3, 167) == 50
    assert served(admitting, "192.0.2.1", SourceClass.BESIDE, 60, 167) < 60 * 167 / 2


def test_dialer_is_always_admitted_however_often_its_lanes_are_cut() -> None:
    assert PROOFS.burst >= backoff.BURST
    assert PROOFS.per_second + STRANGER.per_second >= backoff.RATE


def test_address_of_a_peer_with_all_lanes_has_the_rate_of_a_stranger() -> None:
    """Any user of that host may connect from it, and each handshake slows down the streams of the link."""
    minutes = 10
    known, stranger = (
        served(Admission(1, NOW), "192.0.2.1", standing, 60 * minutes, 167)
        for standing in (SourceClass.KNOWN, SourceClass.STRANGER)
    )
    assert known <= stranger + KNOWN.burst


def test_strangers_share_a_rate_that_peers_do_not() -> None:
    admitting, count = Admission(1, NOW), 0
    for number in range(10_000):
        admitted, _ = admitting.admit(f"2001:db8:0:{number:x}::/64", SourceClass.STRANGER, NOW)
        count += admitted is not None
    assert count == STRANGERS.burst
    admit(admitting, "192.0.2.1", SourceClass.KNOWN)


def test_connections_as_a_stranger_do_not_count_against_a_peer_at_that_address() -> None:
    admitting = Admission(1, NOW)
    while admitting.admit("192.0.2.1", SourceClass.STRANGER, NOW)[0] is not None:
        pass
    admit(admitting, "192.0.2.1", SourceClass.EXPECTED)


def test_authenticated_connection_does_not_count_against_its_source() -> None:
    admitting = Admission(1, NOW)
    for _ in range(int(PROOFS.burst)):
        admitting.proved(admit(admitting, "198.51.100.1"), "hosta", NOW)


def test_peer_that_connects_too_often_is_a_stranger_again() -> None:
    admitting, count = Admission(1, NOW), 0
    assert admitting.may_expect("hosta", NOW)
    while admitting.may_expect("hosta", NOW):
        admitting.proved(admit(admitting, "192.0.2.1", SourceClass.EXPECTED), "hosta", NOW)
        count += 1
    assert count == PROOFS.burst
    assert admitting.may_expect("hostb", NOW)
    assert admitting.may_expect("hosta", NOW + 2 / PROOFS.per_second)


def test_memory_for_rates_is_bounded(plenty: None) -> None:
    admitting = Admission(1, NOW)
    for number in range(3 * MOST_SOURCES):
        admitting.admit(f"source {number}", SourceClass.STRANGER, NOW)
        assert len(admitting._sources) <= MOST_SOURCES


def test_idle_sources_are_discarded_first() -> None:
    admitting = Admission(1, NOW)
    while admitting.admit("198.51.100.1", SourceClass.KNOWN, NOW + 60)[0] is not None:
        pass
    for number in range(MOST_SOURCES):
        admitting._bucket(f"source {number}", SourceClass.KNOWN, NOW + 60)
    assert admitting.admit("198.51.100.1", SourceClass.KNOWN, NOW + 60) == (None, []), (
        "its rate is not forgotten"
    )
