"""``bench abuse``: throughput of bulk, and the time until a cut lane is replaced, while daemons are abused.

In each round the same connection carries the bytes alone, during the abuse, and, where applicable, during the
same abuse of a plain listener beside the daemons: an attacker uses CPU of the machine whatever it attacks.
Then lanes are cut during the abuse, under bulk whose every byte is compared.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tunnel.bench.measure.abusers import RESUMED_WITHIN, Abuser
from tunnel.bench.measure.cut import cut, link
from tunnel.bench.measure.exposed import Exposed, expose
from tunnel.bench.measure.netns import Network
from tunnel.bench.measure.program import BenchError, Program
from tunnel.bench.measure.relay import Progress
from tunnel.bench.measure.relay_commands import Command
from tunnel.bench.measure.results import Record, Results
from tunnel.bench.measure.rig import Rig, Source, scratch_rig
from tunnel.bench.measure.rotate import duplex_command, figures
from tunnel.bench.measure.sides import start
from tunnel.bench.measure.site import HOST_A, HOST_B
from tunnel.bench.measure.stats import Spread
from tunnel.units import MIB

CUTS = 3

_SLOWEST = 20 * MIB  # bytes per second below which a transfer counts as hung
_FELT = 1.5  # seconds of abuse before measuring: uses up the burst that a source is allowed
_REST = 0.3  # seconds after it
_BETWEEN_CUTS = 0.3


@dataclass(frozen=True)
class AbuseOptions:
    """``size`` bytes in each transfer, ``rounds`` times; ``cut_size`` each way while lanes are cut."""

    size: int
    rounds: int = 5
    cut_size: int = 2 << 30


@dataclass(frozen=True)
class Transfer:
    """Duration of one transfer, CPU seconds by program, and the counters of the abuser meanwhile."""

    seconds: float
    cpu: Mapping[str, float]
    abuse: Mapping[str, int]


@dataclass(frozen=True)
class AbuseOutcome:
    """One round: ``plain`` is the transfer during abuse of a plain listener, None where not applicable.

    ``lost``: lanes of the link that were lost meanwhile, on both sides.
    """

    abuser: str
    round: int
    bytes: int
    alone: Transfer
    abused: Transfer
    plain: Transfer | None
    lost: int

    @property
    def ratio(self) -> float:
        """Throughput of bulk under abuse, as a fraction of that alone."""
        return self.alone.seconds / self.abused.seconds

    @property
    def plain_ratio(self) -> float | None:
        """The same while the plain listener is abused."""
        return self.alone.seconds / self.plain.seconds if self.plain else None


@dataclass(frozen=True)
class Cuts:
    """Lanes that were cut during the abuse.

    ``slowest``: the longest time until one was replaced; ``gap``: until bytes arrived again; in seconds. All
    ``bytes`` in each direction arrived unchanged.
    """

    abuser: str
    cuts: int
    slowest: float
    gap: float
    bytes: int


@dataclass(frozen=True)
class AbuseVerdict:
    """All rounds of one abuse. ``attacker``: its share of a core; ``per_second``: its counters."""

    abuser: str
    goal: float
    ratio: Spread
    plain_ratio: Spread | None
    mib_per_s: Spread
    attacker: Spread
    per_second: Mapping[str, float]
    lost: int
    slowest: float | None
    gap: float | None

    @property
    def reached(self) -> bool:
        """Whether the goals are met."""
        in_time = self.slowest is not None and max(self.slowest, self.gap or 0.0) <= RESUMED_WITHIN
        return self.ratio.median >= self.goal and not self.lost and in_time

    def as_record(self) -> Record:
        """Return the fields of the record in the result file."""
        fields = {
            key: value.as_dict() if isinstance(value, Spread) else value for key, value in vars(self).items()
        }
        return {**fields, "reached": self.reached}


def run(
    abusers: Sequence[Abuser], options: AbuseOptions, network: Network, results: Results, progress: Progress
) -> list[AbuseVerdict]:
    """Measure each abuser; add records to ``results``, also of failures."""
    found = []
    for abuser in abusers:
        progress(f"{abuser.name}: {abuser.what}")
        outcomes: list[AbuseOutcome] = []
        cuts = None
        with results.failure_of(abuser.name):
            for outcome in measure(abuser, options, network):
                outcomes.append(outcome)
                results.add("abuse", **asdict(outcome))
            cuts = measure_cuts(abuser, options, network)
            results.add("abuse_cuts", **asdict(cuts))
        if outcomes:
            found.append(judge(abuser, outcomes, cuts))
            results.add("verdict", **found[-1].as_record())
    return found


def judge(abuser: Abuser, outcomes: Sequence[AbuseOutcome], cuts: Cuts | None) -> AbuseVerdict:
    """Return the verdict on one round or more."""
    plain = [each.plain_ratio for each in outcomes if each.plain_ratio is not None]
    seconds = sum(each.abused.seconds for each in outcomes)
    return AbuseVerdict(
        abuser=abuser.name,
        goal=abuser.goal,
        ratio=Spread.of([each.ratio for each in outcomes]),
        plain_ratio=Spread.of(plain) if plain else None,
        mib_per_s=Spread.of([each.bytes / MIB / each.abused.seconds for each in outcomes]),
        attacker=Spread.of([each.abused.cpu["abuser"] / each.abused.seconds for each in outcomes]),
        per_second={
            key: round(sum(each.abused.abuse[key] for each in outcomes) / seconds, 1)
            for key in outcomes[0].abused.abuse
        },
        lost=sum(each.lost for each in outcomes),
        slowest=cuts.slowest if cuts else None,
        gap=cuts.gap if cuts else None,
    )


# -- throughput -------------------------------------------------------------------------------------------


def measure(abuser: Abuser, options: AbuseOptions, network: Network) -> Iterator[AbuseOutcome]:
    """Carry bulk through two daemons, alternately alone and under abuse. Raises BenchError."""
    with scratch_rig() as (rig, scratch):
        exposed = expose(scratch, network.congestion)
        site = exposed.site
        sink = rig.start_sink(site.exit)
        daemons = start_daemons(rig, exposed)
        _start_listeners(rig, exposed)
        source = rig.start_source(site.entry)
        programs = {**daemons, "sink": sink, "source": source.program}
        bulk = _Bulk(rig, source, programs, options.size)
        bulk.carry()  # warm-up
        for number in range(1, options.rounds + 1):
            before = lost_lanes(exposed)
            alone = bulk.carry()
            abused = bulk.carry(abuser.command(exposed))
            plain = bulk.carry(abuser.plain(exposed)) if abuser.plain else None
            lost = lost_lanes(exposed) - before
            yield AbuseOutcome(abuser.name, number, options.size, alone, abused, plain, lost)


def start_daemons(rig: Rig, exposed: Exposed, memory: tuple[str, str] = ("", "")) -> dict[str, Program]:
    """Start both daemons; return them by side."""
    return start(rig, exposed.sides(memory), exposed.site)


def _start_listeners(rig: Rig, exposed: Exposed) -> None:
    """Start the targets of the abused ingresses, and the plain listeners."""
    for name, role, endpoint in (
        ("callers", "listen", exposed.busy),
        ("callers", "listen", exposed.plain),
        ("callers", "listen", exposed.plain_unix),
        ("stalls", "hold", exposed.held),
    ):
        rig.start_module(f"{role}-{name}", name, role, endpoint)


def lost_lanes(exposed: Exposed) -> int:
    """Return the lost lanes of the link of hosta and hostb so far. Raises BenchError when it is down."""
    links = [link(*end) for end in exposed.site.link_ends]
    if any(each["state"] != "up" for each in links):
        raise BenchError("the link is down")
    return sum(int(each["resumes"]) for each in links)


class _Bulk:
    """The stream whose throughput is measured."""

    def __init__(self, rig: Rig, source: Source, programs: Mapping[str, Program], size: int) -> None:
        self._rig = rig
        self._source = source
        self._programs = programs
        self._size = size

    def carry(self, abuse: Command | None = None) -> Transfer:
        """Carry the bytes once, while ``abuse`` runs if given."""
        if abuse is None:
            return self._measure({}, None)
        with abusing(self._rig, abuse) as attacker:
            transfer = self._measure({"abuser": attacker.program}, attacker)
        time.sleep(_REST)
        return transfer

    def _measure(self, more: Mapping[str, Program], attacker: Source | None) -> Transfer:
        programs = {**self._programs, **more}
        did = _ask(attacker)
        cpu = {name: program.cpu_seconds() for name, program in programs.items()}
        seconds = self._source.transfer(self._size, 60 + self._size / _SLOWEST)
        used = {name: round(program.cpu_seconds() - cpu[name], 3) for name, program in programs.items()}
        abuse = {key: int(value - did[key]) for key, value in _ask(attacker).items()}
        return Transfer(seconds, used, abuse)


@contextmanager
def abusing(rig: Rig, command: Command) -> Iterator[Source]:
    """Run the abuser during the block, which starts once the abuse has an effect."""
    attacker = Source(rig.start("abuser", command, talks=True))
    try:
        _ask(attacker)  # it has started when it replies
        time.sleep(_FELT)
        yield attacker
    finally:
        attacker.close()


def _ask(attacker: Source | None) -> dict[str, float]:
    if attacker is None:
        return {}
    attacker.say({})
    return attacker.hear(60)


# -- cuts -------------------------------------------------------------------------------------------------


def measure_cuts(abuser: Abuser, options: AbuseOptions, network: Network) -> Cuts:
    """Cut lanes under bulk in both directions and abuse. Raises BenchError, also for a wrong byte."""
    with scratch_rig() as (rig, scratch):
        exposed = expose(scratch, network.congestion)
        rig.start_sink(exposed.site.exit)
        start_daemons(rig, exposed)
        _start_listeners(rig, exposed)
        rig.start_source(exposed.site.entry).close()  # the link is up
        options_of_load = ["--streams=1", f"--count={options.cut_size}"]
        called = rig.start(
            "called", [*duplex_command("called", exposed.twin_exit), *options_of_load], talks=True
        )
        called.wait_listening(exposed.twin_exit)
        control = exposed.site.control(HOST_A)
        with abusing(rig, abuser.command(exposed)):
            caller = rig.start(
                "caller", [*duplex_command("caller", exposed.twin), *options_of_load], talks=True
            )
            _wait_flowing(control, caller)
            times = []
            for _ in range(CUTS):
                times.append(cut(control, HOST_B))
                time.sleep(_BETWEEN_CUTS)
            caller.check()  # so all cuts were during the transfer
            found = [figures(each, 60 + options.cut_size / _SLOWEST) for each in (caller, called)]
        return Cuts(
            abuser=abuser.name,
            cuts=CUTS,
            slowest=max(times),
            gap=max(each["gap"] for each in found),
            bytes=options.cut_size,
        )


def _wait_flowing(control: Path, caller: Program) -> None:
    """Wait until bytes of the caller are in transit."""
    while not any(stream["bytes_from_local"] > MIB for stream in link(control, HOST_B)["streams"]):
        caller.check()
        time.sleep(0.02)
