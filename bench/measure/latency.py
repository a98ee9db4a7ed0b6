"""The round trip of a small stream through a relay: idle, and while bulk streams fill it.

A second source makes sequential requests of 64 bytes: first alone, then while the bulk source sends one
transfer after the other over the streams of the case, so that the relay is always busy. Each reply is awaited
before the next request, with a pause of 1 ms in between.
"""

from __future__ import annotations

from tunnel.bench.measure.contestants import Contestant
from tunnel.bench.measure.measurement import Case, Latency, Percentiles
from tunnel.bench.measure.netns import Network
from tunnel.bench.measure.rig import Source
from tunnel.bench.measure.sides import rigged_site, start_sides
from tunnel.units import MIB

SAMPLES = 1000
_BATCH = 10
_BULK_MOST = 256 * MIB  # of one transfer; the next one follows immediately
_TIMEOUT = 60.0


def measure(
    contestant: Contestant, number: int, case: Case, size: int, network: Network, samples: int = SAMPLES
) -> Latency:
    """Measure ``samples`` round trips idle and as many under load. Raises BenchError.

    ``size``: bytes of one bulk transfer, at most 256 MiB.
    """
    with rigged_site(network, unix_legs=case.unix_legs) as (rig, site):
        rig.start_sink(site.exit)
        start_sides(rig, contestant, site)
        entry = site.entry if contestant.sides else site.exit
        probe = rig.start_source(entry)
        bulk = rig.start_source(entry, streams=case.streams)
        idle = probe.ping(samples, _TIMEOUT)
        loaded = _under_load(probe, bulk, min(size, _BULK_MOST), samples)
        return Latency(contestant.name, number, case, Percentiles.of(idle), Percentiles.of(loaded))


def _under_load(probe: Source, bulk: Source, size: int, samples: int) -> list[float]:
    bulk.transfer(size, _TIMEOUT)  # warm-up: windows and buffers reach their size
    bulk.begin(size)
    found: list[float] = []
    while len(found) < samples:
        found += probe.ping(min(_BATCH, samples - len(found)), _TIMEOUT)
        if bulk.has_answered():
            bulk.hear(_TIMEOUT)
            bulk.begin(size)
    bulk.hear(_TIMEOUT)
    return found
