"""Rate limits of log lines: per source and for all sources, in bounded memory."""

from __future__ import annotations

import itertools

import pytest

from tunnel.daemon import log_rate
from tunnel.daemon.log_rate import ALL_SOURCES, ROUTINE, SUMMARY_INTERVAL, TROUBLE, Limiter, source_of

HOUR = 3600


def admitted(
    limiter: Limiter, event: str, source: str, now: float, count: int, level: str = "warning"
) -> int:
    return sum(limiter.admits(event, level, source, now)[0] for _ in range(count))


def test_source_has_a_burst_and_then_a_rate() -> None:
    limiter = Limiter()
    assert admitted(limiter, "refused", "uid 1", 0.0, 1000) == TROUBLE.burst
    assert admitted(limiter, "refused", "uid 1", 10.0, 1000) == 10 * TROUBLE.per_second
    assert admitted(limiter, "refused", "uid 1", 10_000.0, 1000) == TROUBLE.burst


def test_neither_another_source_nor_another_event_is_suppressed() -> None:
    limiter = Limiter()
    admitted(limiter, "refused", "uid 1", 0.0, 1000)
    assert admitted(limiter, "refused", "uid 2", 0.0, 1) == 1
    assert admitted(limiter, "lane lost", "uid 1", 0.0, 1) == 1


@pytest.mark.parametrize("order", [("warning", "info"), ("info", "warning")])
def test_warnings_of_an_event_and_its_routine_lines_are_limited_separately(order: tuple[str, str]) -> None:
    rates = {"warning": TROUBLE, "info": ROUTINE}
    limiter = Limiter()
    for level in order:
        assert admitted(limiter, "redirects changed", "", 0.0, 5000, level) == rates[level].burst


def test_migration_of_255_channels_is_logged_channel_by_channel() -> None:
    limiter = Limiter()
    for event in ("stream opened", "stream closed"):
        assert admitted(limiter, event, "peer hostb", 0.0, 512, "info") == 512


def test_many_sources_together_are_bounded() -> None:
    limiter = Limiter()
    everywhere = sum(admitted(limiter, "rejected", f"192.0.2.{n}", 0.0, 100) for n in range(200))
    assert everywhere == TROUBLE.burst * ALL_SOURCES


def test_flood_from_more_sources_than_buckets_is_bounded_in_lines_and_memory() -> None:
    for level, rate in (("warning", TROUBLE), ("info", ROUTINE)):
        limiter = Limiter()
        sources = (f"uid {n % 5000}" for n in itertools.count())
        lines = sum(
            limiter.admits("refused", level, next(sources), second)[0]
            for second in range(HOUR)
            for _ in range(30)
        )
        assert lines <= (rate.burst + HOUR * rate.per_second) * ALL_SOURCES
        assert len(limiter._buckets) == log_rate.MOST_SOURCES


def test_suppressed_lines_are_counted_by_source_and_summarized_once() -> None:
    limiter = Limiter(TROUBLE)
    assert limiter.due(0.0) is None
    admitted(limiter, "refused", "uid 1", 0.0, 12_365)
    admitted(limiter, "refused", "uid 2", 1.0, 25)
    assert limiter.due(4.0) == SUMMARY_INTERVAL - 4.0
    assert limiter.summaries(4.0) == []
    assert limiter.summaries(SUMMARY_INTERVAL) == [
        (
            "warning",
            {
                "event": "and 12,350 more",
                "of": "refused",
                "count": 12_350,
                "sources": "uid 1: 12,345; uid 2: 5",
                "seconds": 10,
            },
        )
    ]
    assert limiter.due(SUMMARY_INTERVAL) is None
    assert limiter.summaries(100.0) == []


def test_summary_names_few_sources_and_counts_all() -> None:
    limiter = Limiter()
    for number in range(50):
        admitted(limiter, "rejected", f"192.0.2.{number}", 0.0, 30)
    [(_, facts)] = limiter.summaries(0.0, early=True)
    assert facts["count"] == 50 * 30 - TROUBLE.burst * ALL_SOURCES
    assert str(facts["sources"]).count(";") == log_rate.MOST_NAMED
    assert "others: " in str(facts["sources"])


def test_event_without_a_source_names_none() -> None:
    limiter = Limiter()
    admitted(limiter, "a fault", "", 0.0, 21)
    [(_, facts)] = limiter.summaries(0.0, early=True)
    assert facts == {"event": "and 1 more", "of": "a fault", "count": 1, "seconds": 0}


def test_the_first_suppressed_line_is_reported_as_such() -> None:
    limiter = Limiter()
    found = [limiter.admits("refused", "warning", "", 0.0) for _ in range(22)]
    assert found[19:] == [(True, False), (False, True), (False, False)]


@pytest.mark.parametrize(
    ("facts", "source"),
    [
        ({}, ""),
        ({"peer": "hostb", "stream": 3}, "peer hostb"),
        ({"peer": "hostb", "uid": 0}, "peer hostb, uid 0"),
        ({"peer": "hostb", "uid": None}, "peer hostb"),
        ({"remote": "192.0.2.1:40000"}, "192.0.2.1"),
        ({"remote": "[2001:db8::1:2:3:4]:40000"}, "2001:db8::/64"),
        ({"remote": "[::ffff:192.0.2.1]:40000"}, "192.0.2.1"),
        ({"remote": "[fe80::1%eth0]:40000"}, "fe80::/64"),
        ({"remote": "gone"}, "gone"),
        ({"remote": "[no:address]:1"}, "no:address"),
    ],
)
def test_source_is_peer_user_and_network(facts: dict[str, object], source: str) -> None:
    assert source_of(facts) == source
