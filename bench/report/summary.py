"""Summary of ``bench relay``: the figures of each contestant in each case, over all rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from tunnel.bench.measure import floor
from tunnel.bench.measure.measurement import OURS, Case, Latency, Measurement
from tunnel.bench.measure.relay import Measured
from tunnel.bench.measure.results import Record
from tunnel.bench.measure.stats import Spread, ratio

BASE = "haproxy-tuned"  # the third-party relay that the goals name


@dataclass(frozen=True)
class Summary:
    """One contestant in one case over all rounds.

    Ratios are taken within a round: to ``BASE``, and of the CPU time to the contestant's own floor; None
    without them. CPU time is None without a relay, latency where it was not measured. Round trips are in
    seconds.
    """

    contestant: str
    case: Case
    rounds: int
    gib_per_s: Spread
    cpu_per_gib: Spread | None
    cpu_a: Spread | None
    cpu_b: Spread | None
    load_cpu_per_gib: Spread
    throughput_ratio: Spread | None
    cpu_ratio: Spread | None
    floor_ratio: Spread | None
    idle_p50: Spread | None
    idle_p99: Spread | None
    loaded_p50: Spread | None
    loaded_p99: Spread | None
    rss_peak: dict[str, int]

    def as_record(self) -> Record:
        """Return the fields of the record in the result file."""
        return _flat(self)


@dataclass(frozen=True)
class Growth:
    """CPU time per GiB of a contestant at ``most`` streams, as a multiple of that at ``fewest``."""

    contestant: str
    legs: str
    fewest: int
    most: int
    cpu_ratio: Spread

    def as_record(self) -> Record:
        """Return the fields of the record in the result file."""
        return _flat(self)


def _flat(conclusion: Summary | Growth) -> Record:
    record: Record = {}
    for key, value in vars(conclusion).items():
        if isinstance(value, Case):
            record |= asdict(value)
        else:
            record[key] = value.as_dict() if isinstance(value, Spread) else value
    return record


def summarise(found: Measured) -> list[Summary]:
    """Summarise each contestant in each case, both in the order of their first measurement."""
    cases = list(dict.fromkeys(measurement.case for measurement in found.transfers))
    names = list(dict.fromkeys(measurement.contestant for measurement in found.transfers))
    return [
        _summary(own, _of(BASE, case, found), _floors(name, case, found), _trips(name, case, found))
        for case in cases
        for name in names
        if (own := _of(name, case, found))
    ]


def floor_of(case: Case, found: Measured, contestant: str = OURS) -> Spread | None:
    """Return a contestant's floor in CPU seconds per GiB; None when it was not measured."""
    floors = list(_floors(contestant, case, found).values())
    return Spread.of(floors) if floors else None


def floors_in_words(case: Case, found: Measured) -> list[str]:
    """Return our floor in CPU seconds per GiB, then that of others, each with its AES library, as text."""
    words = []
    for contestant, whose in ((OURS, "mtunnel's"), (BASE, "that of other programs")):
        low, library = floor_of(case, found, contestant), floor.library_of(contestant, found.crypto)
        if low is not None:
            words.append(f"{whose} {low}, AES by {library}")
    return words


def _of(name: str, case: Case, found: Measured) -> list[Measurement]:
    return [m for m in found.transfers if m.contestant == name and m.case == case]


def _trips(name: str, case: Case, found: Measured) -> list[Latency]:
    return [trips for trips in found.latencies if trips.contestant == name and trips.case == case]


def _floors(contestant: str, case: Case, found: Measured) -> dict[int, float]:
    known = floor.floors(found.transfers, found.crypto, contestant)
    return {number: value for (where, number), value in known.items() if where == case}


def _summary(
    own: Sequence[Measurement],
    base: Sequence[Measurement],
    floors: dict[int, float],
    trips: Sequence[Latency],
) -> Summary:
    relays = own[0].is_relay
    cpu = _cpu(own) if relays else {}
    return Summary(
        contestant=own[0].contestant,
        case=own[0].case,
        rounds=len(own),
        gib_per_s=Spread.of([m.gib_per_s for m in own]),
        cpu_per_gib=Spread.of(list(cpu.values())) if relays else None,
        cpu_a=Spread.of([m.cpu_per_gib("a") for m in own]) if relays else None,
        cpu_b=Spread.of([m.cpu_per_gib("b") for m in own]) if relays else None,
        load_cpu_per_gib=Spread.of([m.load_cpu for m in own]),
        throughput_ratio=ratio({m.round: m.gib_per_s for m in own}, {m.round: m.gib_per_s for m in base}),
        cpu_ratio=ratio(cpu, _cpu(base)),
        floor_ratio=ratio(cpu, floors),
        idle_p50=_spread(trips, lambda trip: trip.idle.p50),
        idle_p99=_spread(trips, lambda trip: trip.idle.p99),
        loaded_p50=_spread(trips, lambda trip: trip.loaded.p50),
        loaded_p99=_spread(trips, lambda trip: trip.loaded.p99),
        rss_peak={role: max(m.rss_peak[role] for m in own) for role in own[0].rss_peak},
    )


def _cpu(measured: Sequence[Measurement]) -> dict[int, float]:
    return {m.round: m.relay_cpu for m in measured}


def _spread(trips: Sequence[Latency], of: Callable[[Latency], float]) -> Spread | None:
    return Spread.of([of(trip) for trip in trips]) if trips else None


def growths(found: Measured) -> list[Growth]:
    """Return how each relay's cost grows with the streams, for legs measured with several numbers of them."""
    relays = [m for m in found.transfers if m.is_relay]
    return [
        growth
        for name, legs in dict.fromkeys((m.contestant, m.case.legs) for m in relays)
        if (growth := _growth(name, legs, found))
    ]


def _growth(name: str, legs: str, found: Measured) -> Growth | None:
    streams = [m.case.streams for m in found.transfers if m.contestant == name and m.case.legs == legs]
    fewest, most = min(streams), max(streams)
    few, many = (_cpu(_of(name, Case(legs, count), found)) for count in (fewest, most))
    grown = ratio(many, few) if fewest != most else None
    return Growth(name, legs, fewest, most, grown) if grown else None
