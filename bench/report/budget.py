"""The goals of mtunnel, row by row, with the figures that a result file has for them.

Rivals are those that a user can install today: HAProxy on OpenSSL 3.5 or newer, whose AES uses VAES, and that
of Debian 12; QEMU's TLS with multifd. A row whose rival did not run on the measured machine says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from tunnel.bench.measure.guest_records import MeasuredMigration
from tunnel.bench.measure.idle import DIRECTIONS, IdleOutcome
from tunnel.bench.measure.measurement import OURS, OURS_IN_PYTHON, OURS_WITH_WORKERS, Case
from tunnel.bench.measure.relay import Measured
from tunnel.bench.measure.scale import Scaled
from tunnel.bench.measure.stats import Spread
from tunnel.bench.report.reached import Reached
from tunnel.bench.report.result_file import Fields, ResultFile, measured
from tunnel.bench.report.summary import BASE, growths, summarise
from tunnel.bench.report.summary_migrate import GOALS, GUESTS, compare
from tunnel.units import MIB
from tunnel.wire.session import Settings

Version = tuple[int, int]

_ONE, _MANY = Case("tcp", 1), Case("tcp", 64)
_GROWTH = (OURS, _ONE.legs, _ONE.streams, _MANY.streams)
_NEW, _OLD = "HAProxy on OpenSSL 3.5 or newer", "HAProxy on OpenSSL 3.0, as Debian 12 has it"
_HAPROXY_BUDGETS = (
    (OURS, _NEW, 0.95, 0.80),
    (OURS, _OLD, 0.90, 0.70),
    (OURS_IN_PYTHON, _NEW, 1.10, 1.0),
    (OURS_IN_PYTHON, _OLD, 0.95, 0.85),
)
"""Contestant, rival, and its CPU time per GiB of one stream as a multiple of the rival's: bound and aim."""

SYSTEM_PRICED = "this floor was measured with the system's OpenSSL, not with mtunnel's library"

IDLE_LINKS = 1000


def openssl_of(file: ResultFile) -> Version | None:
    """Return the OpenSSL version that HAProxy used in a run; None without HAProxy, or with another library.

    Older files lack it: there the version of Python's ssl is used, which is the system's as well.
    """
    versions = [str(r["version"]) for r in file.of_kind("contestant") if r["name"] == BASE and "version" in r]
    if not versions:
        return None
    _, named, library = versions[0].partition("running on ")
    found = re.match(r"OpenSSL (\d+)\.(\d+)", library if named else str(file.run["machine"]["openssl"]))
    return (int(found[1]), int(found[2])) if found else None


def relay(file: ResultFile | None) -> Iterator[Reached]:
    """Yield the goals that ``bench relay`` measures."""
    found = measured(file) if file else Measured()
    summaries = {(s.contestant, s.case): s for s in summarise(found)}
    for name, rival, must, aim in _HAPROXY_BUDGETS:
        own = summaries.get((name, _ONE))
        what = f"CPU time of {name} to that of {rival}"
        yield Reached(what, own.cpu_ratio if own else None, must, aim, reason=_other_rival(file, rival))
    own = summaries.get((OURS, _ONE))
    throughput = own.throughput_ratio if own else None
    yield Reached("throughput to HAProxy's, one stream", throughput, 1.05, 1.3, at_most=False)
    low = own.floor_ratio if own else None
    priced_by_others = SYSTEM_PRICED if any(not cost.by for cost in found.crypto) else ""
    yield Reached("CPU time to the floor, one stream", low, 1.35, 1.15, reason=priced_by_others)
    grown = [g.cpu_ratio for g in growths(found) if (g.contestant, g.legs, g.fewest, g.most) == _GROWTH]
    yield Reached("CPU time of 64 streams to that of 1", grown[0] if grown else None, 1.15, 1.05)
    for case in (_ONE, _MANY):
        what = f"p99 round trip beside bulk, above idle, {case.streams} stream{'s' * (case.streams > 1)}"
        yield Reached(what, _waiting(found, case, OURS), 4.0, 1.0, " ms")
        yield Reached(f"{what}, two workers", _waiting(found, case, OURS_WITH_WORKERS), 2.0, 1.0, " ms")


def _other_rival(file: ResultFile | None, rival: str) -> str:
    """Return why the HAProxy of this run is not the rival of a row; "" if it is."""
    if file is None:
        return ""
    for record in file.of_kind("contestant"):
        if record["name"] == BASE and "missing" in record:
            return str(record["missing"])
    openssl = openssl_of(file)
    if openssl is None:
        return f"no {BASE} on OpenSSL in this run"
    wanted = openssl >= (3, 5) if rival == _NEW else openssl == (3, 0)
    return "" if wanted else f"HAProxy is on OpenSSL {openssl[0]}.{openssl[1]} here"


def _waiting(found: Measured, case: Case, contestant: str) -> Spread | None:
    trips = [trip for trip in found.latencies if trip.contestant == contestant and trip.case == case]
    return _spread([(trip.loaded.p99 - trip.idle.p99) * 1e3 for trip in trips])


def migrate(file: ResultFile | None) -> Iterator[Reached]:
    """Yield those of ``bench migrate``: idle guests over an unshaped link, as the goals concern the path."""
    moved = file.build("migration", MeasuredMigration) if file else []
    counted = [
        m for m in moved if m.guest_bytes in GUESTS and not m.dirty_bytes_per_s and not m.link_bits_per_s
    ]
    compared = compare(counted, file.records if file else ())
    for goal in GOALS:
        if goal.must is None:
            continue
        what = f"migration, throughput of {goal.ours} to {goal.rival}"
        rows = [c for c in compared if c.goal == goal]
        for c in rows:
            where = str(c.setting) if c.ours == goal.ours else f"{c.setting}: {c.ours}"
            yield Reached(what, c.ratio, goal.must, goal.aim, at_most=False, reason=c.reserved, where=where)
        if not rows:
            yield Reached(what, None, goal.must, goal.aim, at_most=False)


def scale(file: ResultFile | None) -> Iterator[Reached]:
    """Yield those of ``bench scale``, for the side with the higher figure."""
    found = file.build("scale", Scaled) if file else []
    cases = {(each.round, each.workers, each.streams): each for each in found}
    ratios = [
        sum(each.cpu.values()) / sum(cases[alone].cpu.values())
        for each in found
        if (each.workers, each.streams) == (2, 4) and (alone := (each.round, 1, 4)) in cases
    ]
    eight = [each for each in found if (each.workers, each.streams) == (8, 8)]
    lock = [max(each.lock.values()) / each.gib for each in eight]
    share = [each.share for each in eight]
    of_eight = "eight workers, eight streams"
    yield Reached("CPU time of two workers to that of one, four streams", _spread(ratios), 1.05, 1.0)
    yield Reached(f"{of_eight}: the busiest one's share", _spread(share), 1 / 6, 1 / 7)
    yield Reached(f"{of_eight}: time with the GIL held", _spread(lock), 0.08, 0.04, " s/GiB")
    yield Reached("resident memory, each additional worker", _spread(_of_workers(found)), 10, None, " MiB")


def _of_workers(found: Sequence[Scaled]) -> list[float]:
    """Return the resident MiB of each worker but the first, idle, of the larger side: one value per round."""
    idle = {(each.round, each.workers, each.streams): max(each.idle.values()) for each in found if each.idle}
    return [
        (size - idle[number, 1, streams]) / (workers - 1) / MIB
        for (number, workers, streams), size in idle.items()
        if (workers, streams) == (8, 8) and (number, 1, streams) in idle
    ]


def _spread(values: list[float]) -> Spread | None:
    return Spread.of(values) if values else None


def memory(file: ResultFile | None) -> Iterator[Reached]:
    """Yield those of ``bench memory``, for the larger side."""
    records = file.of_kind("measurement") if file else []
    own = [record for record in records if record["contestant"] == OURS]
    budget = Settings().memory / MIB
    for state, what, must in (
        ("idle", "idle", 80),
        ("bulk", "one bulk stream", 160),
        ("many", "64 streams, 32 stalled", budget + 100),
    ):
        yield Reached(f"resident memory, {what}", _larger(own, state), must, None, " MiB")


def idle(file: ResultFile | None) -> Iterator[Reached]:
    """Yield those of ``bench idle``, by who dials. A run with fewer links up does not count."""
    found = file.build("idle", IdleOutcome) if file else []
    for direction in DIRECTIONS:
        rounds = [each for each in found if each.direction == direction]
        links = min((min(each.links, each.up) for each in rounds), default=IDLE_LINKS)
        reason = f"{links} links in this run" if links < IDLE_LINKS else ""
        what = f"{IDLE_LINKS:,} idle links, {direction}"
        cpu, memory = [100 * each.core for each in rounds], [each.peak / MIB for each in rounds]
        yield Reached(f"{what}: CPU time", _spread(cpu), 2, None, " % of a core", reason=reason)
        yield Reached(f"{what}: resident memory", _spread(memory), 300, None, " MiB", reason=reason)


def _larger(records: Iterable[Fields], state: str) -> Spread | None:
    sizes = [max(record[state].values()) / MIB for record in records if state in record]
    return _spread(sizes)
