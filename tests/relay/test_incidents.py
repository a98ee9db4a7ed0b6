"""Incidents: what happens often is a count, and pushes out nothing of another kind."""

from __future__ import annotations

from datetime import datetime

from tunnel.relay.incidents import CALLER_REFUSED, MOST_OF_A_KIND, Incidents


def test_they_are_in_the_order_in_which_they_happened_last() -> None:
    incidents = Incidents()
    for what, reason in (
        ("lane lost", "RST"),
        ("link down", "RST"),
        ("lane lost", "silence"),
        ("lane lost", "RST"),
    ):
        incidents.add(what, reason)
    assert [(each.what, each.reason, each.count) for each in incidents] == [
        ("link down", "RST", 1),
        ("lane lost", "silence", 1),
        ("lane lost", "RST", 2),
    ]
    assert incidents[-1].count == 2
    assert [each.what for each in incidents[:2]] == ["link down", "lane lost"]
    assert len(incidents) == 3


def test_refusals_push_nothing_else_out() -> None:
    incidents = Incidents()
    incidents.add("lane lost", "RST")
    for _ in range(12_345):
        incidents.add(CALLER_REFUSED, "user nobody may not use this ingress")
    for uid in range(1000):
        incidents.add(CALLER_REFUSED, f"user {uid} may not use this ingress")
    assert incidents[0].reason == "RST"
    assert len(incidents) == 1 + MOST_OF_A_KIND
    assert incidents[-1].reason == "user 999 may not use this ingress"


def test_facts_have_the_first_and_the_last_time() -> None:
    incidents = Incidents()
    for _ in range(3):
        incidents.add("lane lost", "RST")
    facts = incidents[0].facts()
    since, at = (datetime.fromisoformat(facts.pop(key)) for key in ("since", "at"))
    assert since <= at
    assert at.tzinfo is not None
    assert facts == {"count": 3, "what": "lane lost", "reason": "RST", "code": ""}


def test_cause_is_the_last_that_concerns_the_link() -> None:
    incidents = Incidents()
    assert incidents.cause() is None
    incidents.add(CALLER_REFUSED, "no link with hostb")
    assert incidents.cause() is None
    incidents.add("cannot connect", "Connection refused")
    incidents.add(CALLER_REFUSED, "no link with hostb")
    assert incidents.cause() == "Connection refused"


def test_those_of_a_session_that_is_no_more_are_kept() -> None:
    incidents, others = Incidents(), Incidents()
    incidents.add("lane lost", "RST")
    incidents.add("lane lost", "silence")
    for _ in range(2):
        others.add("lane lost", "RST")
    others.add("link down", "RST", "LINK_LOST")
    first = incidents[0].first
    incidents.adopt(others)
    assert [(each.what, each.reason, each.count, each.code) for each in incidents] == [
        ("lane lost", "silence", 1, ""),
        ("lane lost", "RST", 3, ""),
        ("link down", "RST", 1, "LINK_LOST"),
    ]
    assert incidents[1].first == first
    for number in range(MOST_OF_A_KIND):
        others.add("lane lost", str(number))
    incidents.adopt(others)
    assert len(incidents) == MOST_OF_A_KIND + 1
