"""Incidents: repetitions are counted, and evict nothing of another kind."""

from __future__ import annotations

from datetime import datetime

from tunnel.relay.incidents import CALLER_REFUSED, MOST_OF_A_KIND, Incidents


def test_order_is_that_of_the_last_occurrence() -> None:
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


def test_refusals_evict_no_other_kind() -> None:
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


def test_cause_is_the_last_incident_of_the_link_itself() -> None:
    incidents = Incidents()
    assert incidents.cause() is None
    incidents.add(CALLER_REFUSED, "no link with hostb")
    assert incidents.cause() is None
    incidents.add("cannot connect", "Connection refused")
    incidents.add(CALLER_REFUSED, "no link with hostb")
    assert incidents.cause() == "Connection refused"


def test_incidents_of_an_ended_session_are_kept() -> None:
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
