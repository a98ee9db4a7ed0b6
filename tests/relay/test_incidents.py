"""Incidents: repetitions are counted, and evict nothing of another kind."""

from __future__ import annotations

from datetime import datetime

from tunnel.relay.incidents import MOST_OF_A_KIND, IncidentKind, Incidents


def test_order_is_that_of_the_last_occurrence() -> None:
    incidents = Incidents()
    for kind, reason in (
        (IncidentKind.LANE_LOST, "RST"),
        (IncidentKind.LINK_DOWN, "RST"),
        (IncidentKind.LANE_LOST, "silence"),
        (IncidentKind.LANE_LOST, "RST"),
    ):
        incidents.add(kind, reason)
    assert [(each.kind, each.reason, each.count) for each in incidents] == [
        ("link down", "RST", 1),
        ("lane lost", "silence", 1),
        ("lane lost", "RST", 2),
    ]
    assert incidents[-1].count == 2
    assert [each.kind for each in incidents[:2]] == ["link down", "lane lost"]
    assert len(incidents) == 3


def test_refusals_evict_no_other_kind() -> None:
    incidents = Incidents()
    incidents.add(IncidentKind.LANE_LOST, "RST")
    for _ in range(12_345):
        incidents.add(IncidentKind.CALLER_REFUSED, "user nobody may not use this ingress")
    for uid in range(1000):
        incidents.add(IncidentKind.CALLER_REFUSED, f"user {uid} may not use this ingress")
    assert incidents[0].reason == "RST"
    assert len(incidents) == 1 + MOST_OF_A_KIND
    assert incidents[-1].reason == "user 999 may not use this ingress"


def test_facts_have_the_first_and_the_last_time() -> None:
    incidents = Incidents()
    for uid in (0, 64055):
        details = {"code": "DRAINING", "uid": uid, "ingress": "unix:/run/s"}
        incidents.add(IncidentKind.CALLER_REFUSED, "this host is stopping", details)
    facts = incidents[0].facts()
    assert datetime.fromisoformat(facts["since"]) <= datetime.fromisoformat(facts["at"])
    assert datetime.fromisoformat(facts["at"]).tzinfo is not None
    assert facts == {
        "since": facts["since"],
        "at": facts["at"],
        "count": 2,
        "kind": "CALLER_REFUSED",
        "what": "connection refused",
        "reason": "this host is stopping",
        "code": "DRAINING",
        "uid": 64055,
    }


def test_cause_is_the_last_incident_of_the_link_itself() -> None:
    incidents = Incidents()
    assert incidents.cause() is None
    incidents.add(IncidentKind.CALLER_REFUSED, "no link with hostb")
    assert incidents.cause() is None
    incidents.add(IncidentKind.CANNOT_CONNECT, "Connection refused")
    incidents.add(IncidentKind.CALLER_REFUSED, "no link with hostb")
    assert incidents.cause() == "Connection refused"


def test_incidents_of_an_ended_session_are_kept() -> None:
    incidents, others = Incidents(), Incidents()
    incidents.add(IncidentKind.LANE_LOST, "RST")
    incidents.add(IncidentKind.LANE_LOST, "silence")
    for _ in range(2):
        others.add(IncidentKind.LANE_LOST, "RST")
    others.add(IncidentKind.LINK_DOWN, "RST", {"code": "LINK_LOST"})
    first = incidents[0].first
    incidents.adopt(others)
    assert [(each.kind, each.reason, each.count, each.code) for each in incidents] == [
        ("lane lost", "silence", 1, ""),
        ("lane lost", "RST", 3, ""),
        ("link down", "RST", 1, "LINK_LOST"),
    ]
    assert incidents[1].first == first
    for number in range(MOST_OF_A_KIND):
        others.add(IncidentKind.LANE_LOST, str(number))
    incidents.adopt(others)
    assert len(incidents) == MOST_OF_A_KIND + 1
