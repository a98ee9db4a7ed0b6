"""``bench rotate``: lane rotation under bulk in both directions, and the gaps that it causes in streams.

Each case runs new daemons, first without rotation, then with keys that are limited to ``records``, to
distinguish gaps caused by the machine from gaps caused by rotation. Every byte is compared (``duplex``).
Meanwhile ``status`` of both daemons is polled twice a second for the records of each key.
"""

from __future__ import annotations

import itertools
import json
import select
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass

from tunnel.bench.lab.waiting import until
from tunnel.bench.measure.cut import link
from tunnel.bench.measure.endpoint import ProgramAddress
from tunnel.bench.measure.netns import Network
from tunnel.bench.measure.program import BenchError, Program
from tunnel.bench.measure.relay import Progress
from tunnel.bench.measure.relay_commands import mtunnel
from tunnel.bench.measure.results import Results
from tunnel.bench.measure.rig import Rig
from tunnel.bench.measure.sides import rigged_site, start
from tunnel.bench.measure.site import Site
from tunnel.daemon.control_socket import LinkStatus
from tunnel.units import MIB

LASTING = 1 << 24
"""Key limit in records without rotation: the maximum of a configuration."""

Kinds = tuple[str, str]
"""Lane kinds of side A and side B: names in ``relay_commands.LANES``."""

_SLOWEST = 20 * MIB  # bytes per second below which a transfer counts as hung
_STEP = 0.5  # polling interval in seconds
_READY_SECONDS = 20.0


@dataclass(frozen=True)
class RotateOptions:
    """``size`` bytes in total each way, over ``streams``; for each number of ``lanes`` and each of ``kinds``.

    ``records``: key limit; ``rounds``: repetitions; ``compare``: also run each case without rotation.
    """

    size: int
    streams: int = 8
    lanes: tuple[int, ...] = (1, 2)
    records: int = 1024
    rounds: int = 1
    compare: bool = True
    kinds: tuple[Kinds, ...] = (("userspace", "userspace"),)


@dataclass(frozen=True)
class RotateCase:
    """The settings of the daemons in one case."""

    round: int
    lanes: int
    kinds: Kinds
    records: int

    def __str__(self) -> str:
        many = "s" if self.lanes > 1 else ""
        return f"{self.lanes} lane{many}, {'-'.join(self.kinds)}, {self.records} records a key"


@dataclass(frozen=True)
class RotateOutcome:
    """One transfer in both directions. ``bytes``: of one direction; ``gap`` and ``silence`` in seconds.

    ``rotations``: as counted by side a; ``resumes``: of both sides; ``most_records``: maximum of a key.
    """

    round: int
    lanes: int
    kinds: str
    streams: int
    records: int
    bytes: int
    seconds: float
    gap: float
    silence: float
    rotations: int
    resumes: int
    most_records: int

    @property
    def mib_per_s(self) -> float:
        """Throughput of each direction."""
        return self.bytes / MIB / self.seconds


def run(
    options: RotateOptions, network: Network, results: Results, progress: Progress
) -> list[RotateOutcome]:
    """Measure every case; add records to ``results``, also of failures."""
    found = []
    for case in _cases(options):
        progress(f"round {case.round} of {options.rounds}: {case}")
        with results.failure_of(str(case), round=case.round):
            found.append(measure(options, case, network))
            results.add("rotation", **asdict(found[-1]))
    return found


def _cases(options: RotateOptions) -> Iterator[RotateCase]:
    keys = (LASTING, options.records) if options.compare else (options.records,)
    rounds = range(1, options.rounds + 1)
    return itertools.starmap(RotateCase, itertools.product(rounds, options.lanes, options.kinds, keys))


def measure(options: RotateOptions, case: RotateCase, network: Network) -> RotateOutcome:
    """Run one transfer. Raises BenchError when a process fails, a byte is wrong, or after a timeout."""
    with rigged_site(network) as (rig, site):
        count = options.size // options.streams
        called = _start(rig, "called", site.exit, options.streams, count)
        called.wait_listening(site.exit)
        start(rig, mtunnel(site, case.lanes, case.records, case.kinds), site)
        watch = _Watch(site)
        watch.wait_up(case.lanes)
        caller = _start(rig, "caller", site.entry, options.streams, count)
        deadline = time.monotonic() + 60 + options.size / _SLOWEST
        while any(each.process.poll() is None for each in (caller, called)):
            if time.monotonic() > deadline:
                raise BenchError("the transfer timed out")
            with suppress(BenchError):  # a daemon that is too busy to reply still carries and counts
                watch.look()
            time.sleep(_STEP)
        ended = [figures(each) for each in (caller, called)]
        watch.look()
        return RotateOutcome(
            round=case.round,
            lanes=case.lanes,
            kinds="-".join(case.kinds),
            streams=options.streams,
            records=case.records,
            bytes=count * options.streams,
            rotations=watch.rotations,
            resumes=watch.resumes,
            most_records=watch.most_records,
            **{key: max(each[key] for each in ended) for key in ("seconds", "gap", "silence")},
        )


def _start(rig: Rig, role: str, endpoint: ProgramAddress, streams: int, count: int) -> Program:
    return rig.start(
        role, [*duplex_command(role, endpoint), f"--streams={streams}", f"--count={count}"], talks=True
    )


def duplex_command(role: str, endpoint: ProgramAddress) -> list[str]:
    """Return the command that runs one end of the load."""
    return [sys.executable, "-m", "tunnel.bench.measure.duplex", role, str(endpoint)]


def figures(program: Program, timeout: float = 60.0) -> dict[str, float]:
    """Return the figures that one end of the load prints. Raises BenchError after ``timeout`` seconds."""
    pipe = program.process.stdout
    if pipe is not None and not select.select([pipe], [], [], timeout)[0]:
        raise BenchError(f"{program.name} timed out after {timeout:.0f} s{program.said()}")
    line = pipe.readline() if pipe is not None else ""
    if not line:
        raise BenchError(f"{program.name} failed{program.said()}")
    found: dict[str, float] = json.loads(line)
    return found


class _Watch:
    """Counters of the links of both daemons so far."""

    def __init__(self, site: Site) -> None:
        self.rotations = 0
        self.resumes = 0
        self.most_records = 0
        self._ends = site.link_ends

    def wait_up(self, lanes: int) -> None:
        """Wait until both links have all their lanes."""

        def up() -> bool:
            return all(len(link["lanes"]) >= lanes for link in self._links())

        until(up, "for the link", _READY_SECONDS, BenchError)

    def look(self) -> None:
        """Update the counters."""
        links = self._links()
        self.rotations = links[0]["rotation"]["rotations"]
        self.resumes = sum(link["resumes"] for link in links)
        used = [link["rotation"]["most_records"] for link in links]
        used += [
            max(lane["records_sent"], lane["records_received"]) for link in links for lane in link["lanes"]
        ]
        self.most_records = max([self.most_records, *used])

    def _links(self) -> list[LinkStatus]:
        return [link(*end) for end in self._ends]
