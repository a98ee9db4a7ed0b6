"""The timeline of a migration follows from the events of both QEMUs, in any order."""

from __future__ import annotations

import pytest

from tunnel.bench.measure.timeline import DESTINATION, SOURCE, MigrationTimeline


def event(name: str, seconds: float, **data: object) -> dict[str, object]:
    whole, rest = divmod(round(seconds * 1e6), 10**6)
    return {"event": name, "timestamp": {"seconds": whole, "microseconds": rest}, "data": data}


PRECOPY = [
    (SOURCE, event("MIGRATION", 10.0, status="setup")),
    (SOURCE, event("MIGRATION_PASS", 10.1, **{"pass": 1})),
    (SOURCE, event("MIGRATION", 10.1, status="active")),
    (DESTINATION, event("MIGRATION", 10.1, status="active")),
    (SOURCE, event("MIGRATION_PASS", 11.0, **{"pass": 2})),
    (SOURCE, event("STOP", 12.0)),
    (DESTINATION, event("MIGRATION", 12.2, status="completed")),
    (SOURCE, event("MIGRATION", 12.2, status="completed")),
    (DESTINATION, event("RESUME", 12.25)),
]
POSTCOPY = [
    *PRECOPY[:6],
    (SOURCE, event("MIGRATION", 12.0, status="postcopy-active")),
    (DESTINATION, event("RESUME", 12.1)),
    (DESTINATION, event("MIGRATION", 14.0, status="completed")),
]


@pytest.mark.parametrize(("events", "seconds", "downtime"), [(PRECOPY, 2.25, 0.25), (POSTCOPY, 4.0, 0.1)])
def test_a_timeline_is_over_when_the_guest_runs_with_all_memory(
    events: list[tuple[str, dict[str, object]]], seconds: float, downtime: float
) -> None:
    course = MigrationTimeline()
    for side, what in events:
        assert not course.is_over
        assert course.seconds is None
        course.note(side, what)
    assert course.is_over
    assert course.seconds == pytest.approx(seconds, abs=1e-5)
    assert course.downtime == pytest.approx(downtime, abs=1e-5)
    assert course.passes == 2


def test_an_earlier_stop_of_the_guest_is_not_downtime() -> None:
    course = MigrationTimeline()
    course.note(SOURCE, event("STOP", 1.0))
    course.note(SOURCE, event("RESUME", 2.0))
    for side, what in PRECOPY:
        course.note(side, what)
    assert course.downtime == pytest.approx(0.25, abs=1e-5)


def test_an_aborted_migration_is_never_over() -> None:
    course = MigrationTimeline()
    for side, what in PRECOPY[:5]:
        course.note(side, what)
    course.note(SOURCE, event("MIGRATION", 12.0, status="cancelled"))
    assert not course.is_over
    assert (course.seconds, course.downtime) == (None, None)
