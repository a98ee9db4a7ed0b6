"""Result files in the format of the benchmarks, with invented figures, for the tests of reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tunnel.bench.measure.abuse import AbuseVerdict
from tunnel.bench.measure.beside import BesideOutcome
from tunnel.bench.measure.contestants import CONTESTANTS
from tunnel.bench.measure.cuts import CutsOutcome
from tunnel.bench.measure.guest_records import Convergence, MeasuredMigration
from tunnel.bench.measure.idle import IdleOutcome
from tunnel.bench.measure.measurement import Case, Latency, Measurement, Percentiles
from tunnel.bench.measure.netns import Network
from tunnel.bench.measure.perf_profile import Profile
from tunnel.bench.measure.results import Results
from tunnel.bench.measure.rotate import LASTING, RotateOutcome
from tunnel.bench.measure.scale import Scaled
from tunnel.bench.measure.stacks import Stack
from tunnel.bench.measure.stats import Spread
from tunnel.units import GIB, MIB

CASES = tuple(Case(legs, streams) for legs in ("tcp", "unix") for streams in (1, 4, 64))
MODES = ("native", "mtunnel", "native-tls", "tunnelled-tls", "multifd-tls-4", "mtunnel-multifd-4")
FLOORS = (
    ("aes-256-gcm", "libipsec-mb 1.5", 0.1),
    ("aes-256-gcm-python", "cryptography 50", 0.15),
    ("aes-256-gcm-system", "OpenSSL 3.0.19", 0.2),
)
"""Libraries of the floors, and their CPU seconds per GiB to encrypt."""


def relay(directory: Path, cases: Sequence[Case] = CASES, rounds: int = 3) -> Path:
    """Write a file of ``bench relay`` with every contestant, one of which failed; return its path."""
    results = _open(directory, "relay", {"size": GIB, "repeat": rounds, "samples": 1000})
    for contestant in CONTESTANTS:
        known = {"encrypts": contestant.encrypts, "relays": contestant.sides is not None}
        results.add("contestant", name=contestant.name, settings=contestant.settings, **known, version="1.0")
    results.add("contestant", name="rocket", settings="<b>none</b>", missing="rocket & co not installed")
    for number in range(1, rounds + 1):
        for by, library, cost in FLOORS:
            results.add(
                "floor", round=number, encrypt=cost, decrypt=cost + number / 100, by=by, library=library
            )
        for case in cases:
            for place, contestant in enumerate(CONTESTANTS):
                if contestant.own_load and case.unix_legs:
                    continue
                if contestant.name == "stunnel" and case == Case("tcp", 4):
                    continue  # it failed in this case, see below
                cost = 0.5 + place / 4 + number / 20
                _add_relay(results, contestant.name, number, case, cost if contestant.sides else 0.0)
    results.add("failure", contestant="stunnel", round=1, legs="tcp", streams=4, reason="a ended\n  long")
    return results.path


def _add_relay(results: Results, name: str, number: int, case: Case, cost: float) -> None:
    cpu = {"source": 0.1, "sink": 0.2} | ({"a": cost * 0.4, "b": cost * 0.6} if cost else {})
    rss = dict.fromkeys(cpu, 40 * MIB)
    results.add("measurement", **Measurement(name, number, case, GIB, 0.5 + cost, cpu, rss).as_record())
    if name != "iperf3":
        idle, loaded = Percentiles(1000, 0.0001, 0.0002), Percentiles(1000, 0.001, 0.002 + cost / 100)
        results.add("latency", **Latency(name, number, case, idle, loaded).as_record())


def memory(directory: Path) -> Path:
    """Write a file of ``bench memory``; return its path."""
    results = _open(directory, "memory", {"size": GIB, "stall_seconds": 60.0})
    for name, size in (("mtunnel", 50 * MIB), ("haproxy-tuned", 20 * MIB)):
        sizes = {
            key: {"a": size + extra * MIB, "b": size}
            for extra, key in enumerate(("idle", "bulk", "filled", "stalled", "many"))
        }
        growth = {"a": MIB, "b": 0}
        results.add("measurement", contestant=name, **sizes, growth=growth, accepted=9 * MIB, passed=GIB)
    return results.path


def idle(directory: Path) -> Path:
    """Write a file of ``bench idle``, with links in one direction; return its path."""
    results = _open(directory, "idle", {"links": 1000, "rounds": 3})
    for number, cpu in enumerate((0.8, 0.9, 1.5), start=1):
        sizes = {"empty": 100 * MIB, "resident": 190 * MIB, "peak": 200 * MIB}
        outcome = IdleOutcome(number, "accepted", 1000, 3.0, 2.5, 60.0, cpu, **sizes, up=1000, lost=0)
        results.add("idle", **asdict(outcome))
    return results.path


def migrate(directory: Path) -> Path:
    """Write a file of ``bench migrate``; return its path."""
    results = _open(directory, "migrate", {"guests": [GIB]})
    for number in (1, 2):
        for place, mode in enumerate(MODES, 1):
            for dirty in (0, 100 * MIB):
                gave_up = "more than 10 passes" if dirty and mode == "tunnelled-tls" else ""
                cpu = {side: {"qemu": place / 2, "mtunnel": 0.5} for side in ("a", "b")}
                moved = MeasuredMigration(
                    mode=mode,
                    round=number,
                    guest_bytes=4 * GIB,
                    dirty_bytes_per_s=dirty,
                    link_bits_per_s=None,
                    seconds=place + number / 10,
                    wall_seconds=place + 2.0,
                    bytes=4 * GIB + dirty,
                    stream_bytes_per_s=GIB // place if gave_up == "" else None,
                    downtime_seconds=place / 20 if gave_up == "" else None,
                    iterations=2 + place,
                    written_bytes_per_s=dirty // 2,
                    converged=gave_up == "",
                    aborted=gave_up,
                    pages_verified=GIB // 1024,
                    cpu_seconds=cpu,
                )
                results.add("migration", **asdict(moved))
            asked = (900 - 100 * place) * MIB
            limit = Convergence(
                mode, number, 4 * GIB, 10_000_000_000, 0.3, asked // 2, asked, 100 * MIB, GIB, probes=4
            )
            results.add("convergence", **asdict(limit))
    return results.path


def scale(directory: Path) -> Path:
    """Write a file of ``bench scale`` with two rounds; return its path."""
    results = _open(directory, "scale", {"size": GIB})
    for number in (1, 2):
        cpu = {"a": 1.0 * number, "b": 2.0}
        scaled = Scaled(number, 8, 4, 4 * GIB, 2.0, cpu, {"a": 0.2, "b": 0.6}, {"a": 0.8, "b": 0.4}, 0.3)
        results.add("scale", **asdict(scaled))
    return results.path


def cuts(directory: Path) -> Path:
    """Write a file of ``bench cuts``; return its path."""
    results = _open(directory, "cuts", {"cuts": 4})
    outcome = CutsOutcome(1, 2, 0.02, GIB, 100, 0.0012, [0.0081, 0.0123, 0.0456, 0.0789])
    results.add("cuts", **asdict(outcome))
    return results.path


def rotate(directory: Path) -> Path:
    """Write a file of ``bench rotate`` with and without a limit of records; return its path."""
    results = _open(directory, "rotate", {"size": GIB})
    for records in (1024, LASTING):
        outcome = RotateOutcome(
            1,
            2,
            "userspace-kernel",
            8,
            records,
            3 * GIB,
            6.0,
            0.083,
            0.012,
            rotations=190,
            resumes=0,
            most_records=1345,
        )
        results.add("rotation", **asdict(outcome))
    return results.path


def abuse(directory: Path) -> Path:
    """Write a file of ``bench abuse``; return its path."""
    results = _open(directory, "abuse", {"size": GIB})
    whole = Spread(0.5, 0.4, 0.6)
    verdict = AbuseVerdict(
        "silent", 0.9, whole, None, Spread(900, 800, 950), Spread(0.05, 0, 0), {"made": 150.0}, 0, None, 0.2
    )
    results.add("verdict", **verdict.as_record())
    sizes = {"a": 100 * MIB, "b": 107 * MIB}
    beside = BesideOutcome(
        "stalled", ("", ""), GIB, [2.0], [2.0], {"a": 100 * MIB, "b": 100 * MIB}, sizes, sizes, held=1
    )
    results.add("beside", **beside.as_record())
    return results.path


def profile(directory: Path) -> Path:
    """Write a file of ``bench profile``; return its path."""
    results = _open(directory, "profile", {"size": GIB})
    for side in "ab":
        stacks: Counter[Stack] = Counter({("f [python3.11]",): 1, ("ksys_write [kernel]",): 3})
        results.add("profile", **Profile(side, 0.4, stacks).as_record())
    return results.path


def every(directory: Path) -> list[Path]:
    """Write a file of each benchmark of the report; return their paths."""
    return [make(directory) for make in (relay, memory, migrate, scale, idle, cuts, rotate, abuse, profile)]


def _open(directory: Path, benchmark: str, options: dict[str, object]) -> Results:
    results = Results(directory, benchmark)
    results.open_run(options, Network("cubic", pinned=True))
    return results
