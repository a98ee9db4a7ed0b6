"""``bench scale``: several workers under several bulk streams, and the limits of a host with many cores.

Each case runs new daemons. The CPU time of each thread of both daemons is read before and after one transfer,
while ``perf`` takes samples. Threads of one interpreter cannot run Python in parallel: this is the time with
the GIL held. System calls and calls of the compiled engine release the GIL, so it is the share of samples in
neither. This is an upper bound: other code that releases the GIL is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

from tunnel.bench.lab.tools import path_of
from tunnel.bench.measure.cut import link
from tunnel.bench.measure.netns import Network
from tunnel.bench.measure.perf_profile import Recorder
from tunnel.bench.measure.program import Program
from tunnel.bench.measure.relay import Progress
from tunnel.bench.measure.relay_commands import mtunnel
from tunnel.bench.measure.results import Results
from tunnel.bench.measure.sides import rigged_site, start
from tunnel.bench.measure.site import HOST_A, HOST_B, Site
from tunnel.bench.measure.stacks import Stack
from tunnel.proof.cpu_time import CpuTimes, thread_times, used_by_threads
from tunnel.units import GIB, MIB

_SLOWEST = 20 * MIB  # bytes per second below which a transfer counts as hung
_WARM_UP_MOST = 256 * MIB


@dataclass(frozen=True)
class ScaleOptions:
    """``size`` bytes in total, ``rounds`` times, for each number of ``workers`` and of ``streams``."""

    size: int
    workers: tuple[int, ...] = (1, 2, 4, 8)
    streams: tuple[int, ...] = (1, 2, 4, 8, 16)
    rounds: int = 1


@dataclass(frozen=True)
class Scaled:
    """One transfer.

    By side, ``a`` encrypts and ``b`` decrypts: CPU seconds of all threads, of the busiest one, and with the
    GIL held (upper bound). ``share``: fraction of the bytes that the busiest session carried. ``idle``:
    resident bytes before the first stream, empty in older files.
    """

    round: int
    workers: int
    streams: int
    bytes: int
    seconds: float
    cpu: dict[str, float]
    busiest: dict[str, float]
    lock: dict[str, float]
    share: float
    idle: dict[str, int] = field(default_factory=dict)

    @property
    def gib(self) -> float:
        """GiB transferred."""
        return self.bytes / GIB

    @property
    def bound(self) -> float:
        """GiB per second of a host with enough cores, when the other side runs on another host."""
        return self.gib / max(*self.busiest.values(), *self.lock.values())


def run(options: ScaleOptions, network: Network, results: Results, progress: Progress) -> list[Scaled]:
    """Measure every case; add records to ``results``, also of failures."""
    found = []
    for number, workers, streams in _cases(options):
        what = f"{workers} worker{'s' if workers > 1 else ''}, {streams} stream{'s' if streams > 1 else ''}"
        progress(f"round {number} of {options.rounds}: {what}")
        with results.failure_of(what, round=number):
            found.append(measure(options.size, number, workers, streams, network))
            results.add("scale", **asdict(found[-1]))
    return found


def _cases(options: ScaleOptions) -> Iterator[tuple[int, int, int]]:
    for number in range(1, options.rounds + 1):
        for streams in options.streams:
            for workers in options.workers:
                yield number, workers, streams


def measure(size: int, number: int, workers: int, streams: int, network: Network) -> Scaled:
    """Transfer ``size`` bytes through two new daemons. Raises BenchError."""
    perf = path_of("perf")
    with rigged_site(network) as (rig, site):
        rig.start_sink(site.exit)
        sides = start(rig, mtunnel(site, workers=workers), site)
        idle = {side: program.memory().now for side, program in sides.items()}
        source = rig.start_source(site.entry, streams=streams)
        timeout = 60 + size / _SLOWEST
        source.transfer(min(size, _WARM_UP_MOST), timeout)
        threads, carried = _threads(sides), _carried(site)
        recorders = {side: Recorder(perf, rig, program, site.directory) for side, program in sides.items()}
        seconds = source.transfer(size, timeout)
        spent = {side: used_by_threads(threads[side], now) for side, now in _threads(sides).items()}
        held = {side: lock_share(recorder.stop()) for side, recorder in recorders.items()}
        moved = {name: count - carried.get(name, 0) for name, count in _carried(site).items()}
    cpu = {side: sum(times.total for times in each) for side, each in spent.items()}
    return Scaled(
        round=number,
        workers=workers,
        streams=streams,
        bytes=size,
        seconds=seconds,
        cpu=cpu,
        busiest={side: each[0].total for side, each in spent.items()},
        lock={side: held[side] * seconds_of for side, seconds_of in cpu.items()},
        share=max(moved.values()) / max(1, sum(moved.values())),
        idle=idle,
    )


def lock_share(stacks: Counter[Stack]) -> float:
    """Return the share of samples that are neither in the kernel nor in the compiled engine."""
    held = sum(count for stack, count in stacks.items() if not any(map(_gives_lock_up, _ends(stack))))
    return held / max(1, stacks.total())


def _ends(stack: Stack) -> Iterator[str]:
    """Yield the file of the innermost function, and those of functions of the engine."""
    files = [frame.rpartition(" [")[2].rstrip("]") for frame in stack]
    yield files[-1]
    yield from (file for file in files if file.startswith("engine-"))


def _gives_lock_up(file: str) -> bool:
    return file.startswith(("kernel", "engine-", "libcrypto.so", "libIPSec_MB"))


def _threads(sides: Mapping[str, Program]) -> dict[str, dict[int, CpuTimes]]:
    return {side: thread_times(program.process.pid) for side, program in sides.items()}


def _carried(site: Site) -> dict[str, int]:
    """Return the bytes that side A has sent so far, by session."""
    found: dict[str, int] = {}
    for lane in link(site.control(HOST_A), HOST_B)["lanes"]:
        name = lane.get("session", "standing")
        found[name] = found.get(name, 0) + lane["bytes_sent"]
    return found
