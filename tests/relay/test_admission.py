"""Who may try to prove that it is a peer, with a clock in the test's hand."""

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
    """Rates that no test meets: for those about places."""
    monkeypatch.setattr(admission, "STRANGERS", Rate(1e9, 0))
    monkeypatch.setattr(admission, "_RATES", {each: Rate(1e9, 0) for each in SourceClass})


# Places.


def test_a_full_table_gives_up_the_oldest_of_the_source_that_has_most() -> None:
    table = Table(5)
    many = [place("198.51.100.1") for _ in range(3)]
    few = [place("192.0.2.1"), place("192.0.2.2")]
    for each in (few[0], *many, few[1]):
        assert table.add(each, NOW) == []
    assert table.add(place("192.0.2.3"), NOW) == [many[0]]
    assert table.add(place("192.0.2.4"), NOW) == [many[1]]
    assert table.add(place("192.0.2.5"), NOW) == [few[0]], "now all have one"
    assert len(table) == 5


def test_a_source_pushes_its_own_connections_out() -> None:
    table = Table(5)
    peer = place("192.0.2.1")
    table.add(peer, NOW)
    for _ in range(1000):
        assert peer not in table.add(place("198.51.100.1"), NOW)


def test_a_newcomer_has_a_moment_even_beside_a_flood_from_its_own_source() -> None:
    table = Table(MOST_STRANGERS)
    for _ in range(1000):
        table.add(place("198.51.100.1"), NOW)
    newcomer = place("198.51.100.1")
    table.add(newcomer, NOW)
    for _ in range(MOST_STRANGERS - 1):
        assert newcomer not in table.add(place("198.51.100.1"), NOW)
    assert table.add(place("198.51.100.1"), NOW) == [newcomer]


def test_in_a_table_that_is_half_full_time_is_short() -> None:
    table = Table(6)
    old = [place("192.0.2.1", NOW), place("192.0.2.2", NOW + 1)]
    for each in old:
        table.add(each, each.since)
    assert table.add(place("192.0.2.3", NOW + HASTE), NOW + HASTE) == [], "there was room enough"
    assert table.add(place("192.0.2.4", NOW + HASTE), NOW + HASTE) == [old[0]]
    table.remove(old[0])  # as its owner does, to no effect
    assert len(table) == 3


def test_who_left_counts_no_more(plenty: None) -> None:
    admitting = Admission(0, NOW)
    for _ in range(3 * MOST_STRANGERS):
        admitting.leave(admit(admitting, "198.51.100.1"))
    assert len(admitting) == 0


def test_strangers_take_no_place_of_a_peers(plenty: None) -> None:
    admitting = Admission(2, NOW)
    peer = admit(admitting, "192.0.2.1", SourceClass.KNOWN)
    for number in range(1000):
        _, gone = admitting.admit(f"198.51.100.{number % 250}", SourceClass.STRANGER, NOW)
        assert peer not in gone
    assert len(admitting) == MOST_STRANGERS + 1


def test_all_peers_may_come_at_once(plenty: None) -> None:
    admitting = Admission(1000, NOW)
    for number in range(1000):
        assert admitting.admit(f"10.0.{number // 250}.{number % 250}", SourceClass.EXPECTED, NOW)[1] == []


# Rates.


def served(admitting: Admission, source: str, standing: SourceClass, seconds: float, per_second: int) -> int:
    """How many of ``per_second`` connections for ``seconds`` are admitted; each ends at once."""
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


def test_a_flood_of_ten_thousand_a_minute_does_not_keep_a_peer_out_that_is_expected() -> None:
    """Though it comes from the peer's own address."""
    assert served(Admission(1, NOW), "192.0.2.1", SourceClass.EXPECTED, 60, 167) == 60 * 167


def test_a_peer_whose_lane_was_cut_is_heard_at_once_beside_others_too() -> None:
    """What came before does not count: a flood from its address met another rate while it had its lanes."""
    admitting = Admission(2, NOW)
    assert served(admitting, "192.0.2.1", SourceClass.KNOWN, 60, 167) < 60 * 167
    assert served(admitting, "192.0.2.1", SourceClass.BESIDE, 0.3, 167) == 50
    assert served(admitting, "192.0.2.1", SourceClass.BESIDE, 60, 167) < 60 * 167 / 2


def test_a_dialer_of_ours_is_heard_each_time_however_often_its_lanes_are_cut() -> None:
    assert PROOFS.burst >= backoff.BURST
    assert PROOFS.per_second + STRANGER.per_second >= backoff.RATE


def test_the_address_of_a_peer_that_has_its_lanes_is_heard_as_seldom_as_a_strangers() -> None:
    """Any user of that host may come from it; each handshake costs the streams of the link."""
    minutes = 10
    known, stranger = (
        served(Admission(1, NOW), "192.0.2.1", standing, 60 * minutes, 167)
        for standing in (SourceClass.KNOWN, SourceClass.STRANGER)
    )
    assert known <= stranger + KNOWN.burst


def test_strangers_have_a_rate_together_and_peers_do_not_share_it() -> None:
    admitting, count = Admission(1, NOW), 0
    for number in range(10_000):
        admitted, _ = admitting.admit(f"2001:db8:0:{number:x}::/64", SourceClass.STRANGER, NOW)
        count += admitted is not None
    assert count == STRANGERS.burst
    admit(admitting, "192.0.2.1", SourceClass.KNOWN)


def test_what_a_stranger_did_says_nothing_against_a_peer_at_its_address() -> None:
    admitting = Admission(1, NOW)
    while admitting.admit("192.0.2.1", SourceClass.STRANGER, NOW)[0] is not None:
        pass
    admit(admitting, "192.0.2.1", SourceClass.EXPECTED)


def test_a_connection_that_was_a_peers_does_not_count_against_its_source() -> None:
    admitting = Admission(1, NOW)
    for _ in range(int(PROOFS.burst)):
        admitting.proved(admit(admitting, "198.51.100.1"), "hosta", NOW)


def test_a_peer_that_comes_too_often_is_a_stranger_again() -> None:
    admitting, count = Admission(1, NOW), 0
    assert admitting.may_expect("hosta", NOW)
    while admitting.may_expect("hosta", NOW):
        admitting.proved(admit(admitting, "192.0.2.1", SourceClass.EXPECTED), "hosta", NOW)
        count += 1
    assert count == PROOFS.burst
    assert admitting.may_expect("hostb", NOW)
    assert admitting.may_expect("hosta", NOW + 2 / PROOFS.per_second)


def test_rates_of_any_number_of_sources_are_remembered_in_bounded_memory(plenty: None) -> None:
    admitting = Admission(1, NOW)
    for number in range(3 * MOST_SOURCES):
        admitting.admit(f"source {number}", SourceClass.STRANGER, NOW)
        assert len(admitting._sources) <= MOST_SOURCES


def test_to_forget_begins_with_who_did_not_come_for_a_while() -> None:
    admitting = Admission(1, NOW)
    while admitting.admit("198.51.100.1", SourceClass.KNOWN, NOW + 60)[0] is not None:
        pass
    for number in range(MOST_SOURCES):
        admitting._bucket(f"source {number}", SourceClass.KNOWN, NOW + 60)
    assert admitting.admit("198.51.100.1", SourceClass.KNOWN, NOW + 60) == (None, []), (
        "its rate is not forgotten"
    )
