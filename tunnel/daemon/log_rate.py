"""Rate limits for log lines: per event, a token bucket for each source and one for all sources.

Warnings and routine lines of the same event are limited separately: neither uses up the tokens of the other.

Other programs can repeat an event without limit: an unauthenticated client that connects, a local user who
may not use an ingress, a peer that requests a forbidden target. Suppressed lines are counted by event and
source, and summarized in one line per event, after ten seconds at the earliest.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from tunnel.net.token_bucket import Bucket, Rate

SUMMARY_INTERVAL = 10.0
"""Seconds between the first suppressed line and the summary."""

MOST_SOURCES = 1024
"""Limit of source buckets; the least recently used one is evicted."""

MOST_NAMED = 8
"""Sources that are counted separately in a summary; the rest is counted as ``others``."""

OTHERS = "others"


TROUBLE = Rate(20, 0.2)
"""Warnings and errors of one source."""

ROUTINE = Rate(1024, 2.0)
"""Lines of one source below a warning: one for each stream, of which a migration may have 255."""

ALL_SOURCES = 10.0
"""Factor of the rate of all sources of an event together to the rate of one."""


@dataclass(slots=True)
class Held:
    """Suppressed lines of one event since ``since`` (seconds), by source."""

    level: str
    since: float
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, source: str) -> None:
        """Count one suppressed line."""
        known = source in self.counts or len(self.counts) < MOST_NAMED
        self.counts[source if known else OTHERS] += 1


class Limiter:
    """Decides which events are logged. Not thread-safe: the caller holds a lock."""

    def __init__(self, trouble: Rate = TROUBLE, routine: Rate = ROUTINE) -> None:
        self._rates = {False: trouble, True: routine}
        self._buckets: OrderedDict[tuple[str, Rate, str], Bucket] = OrderedDict()
        self._totals: dict[tuple[str, Rate], Bucket] = {}  # by event: a fixed set of the program
        self._held: dict[str, Held] = {}

    def admits(self, event: str, level: str, source: str, now: float) -> tuple[bool, bool]:
        """Return whether this line is logged, and, if it is suppressed, whether it is the first."""
        rate = self._rates[level in {"debug", "info"}]
        if self._bucket(event, source, rate, now).take(now) and self._total(event, rate, now).take(now):
            return True, False
        begins = not self._held
        if (held := self._held.get(event)) is None:
            held = self._held[event] = Held(level, now)
        held.add(source)
        return False, begins

    def _bucket(self, event: str, source: str, rate: Rate, now: float) -> Bucket:
        key = (event, rate, source)
        if (bucket := self._buckets.get(key)) is None:
            if len(self._buckets) >= MOST_SOURCES:
                self._buckets.popitem(last=False)
            bucket = self._buckets[key] = Bucket(rate, now)
        self._buckets.move_to_end(key)
        return bucket

    def _total(self, event: str, rate: Rate, now: float) -> Bucket:
        if (bucket := self._totals.get((event, rate))) is None:
            bucket = self._totals[event, rate] = Bucket(
                Rate(rate.burst * ALL_SOURCES, rate.per_second * ALL_SOURCES), now
            )
        return bucket

    def due(self, now: float) -> float | None:
        """Return the seconds until the next summary; None when no line was suppressed."""
        if not self._held:
            return None
        return max(0.0, min(held.since for held in self._held.values()) + SUMMARY_INTERVAL - now)

    def summaries(self, now: float, *, early: bool = False) -> list[tuple[str, dict[str, object]]]:
        """Return level and facts of a summary for each event with suppressed lines, and reset its counts.

        ``early``: include those before SUMMARY_INTERVAL.
        """
        ready = [name for name, held in self._held.items() if early or now - held.since >= SUMMARY_INTERVAL]
        return [(self._held[name].level, _summary(name, self._held.pop(name), now)) for name in ready]


def _summary(event: str, held: Held, now: float) -> dict[str, object]:
    count = held.counts.total()
    facts: dict[str, object] = {"event": f"and {count:,} more", "of": event, "count": count}
    if sources := "; ".join(
        f"{source}: {number:,}" for source, number in held.counts.most_common() if source
    ):
        facts["sources"] = sources
    return facts | {"seconds": round(now - held.since)}


def source_of(facts: Mapping[str, object]) -> str:
    """Return the source of an event: the peer, the local user and the remote address among its facts.

    Without the port, and the last 64 bits of an IPv6 address: a host can choose both freely.
    """
    parts = [f"{key} {facts[key]}" for key in ("peer", "uid") if facts.get(key) is not None]
    if isinstance(remote := facts.get("remote"), str):
        parts.append(_network(remote))
    return ", ".join(parts)


def _network(remote: str) -> str:
    """``192.0.2.1:40000`` → ``192.0.2.1``, ``[2001:db8::1]:40000`` → ``2001:db8::/64``."""
    host = remote.rpartition(":")[0].strip("[]") or remote
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), 64), strict=False))
