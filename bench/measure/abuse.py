"""``bench abuse``: what bulk keeps, and how soon a cut lane is replaced, while the daemons are abused.

In each round the same connection carries the bytes alone, during the abuse, and, where there is such a thing,
while the same is done to a plain listener beside the daemons: an attacker takes time of the machine's
processors whatever it attacks. Then lanes are cut during the abuse, under bulk whose every byte is compared.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from tunnel.bench.measure.abusers import RESUMED_WITHIN, Abuser
from tunnel.bench.measure.cut import cut, link
from tunnel.bench.measure.exposed import Exposed, expose
from tunnel.bench.measure.netns import Network
from tunnel.bench.measure.program import BenchError, Program
from tunnel.bench.measure.relay import Progress
from tunnel.bench.measure.relay_commands import Command
from tunnel.bench.measure.results import Record, Results
from tunnel.bench.measure.rig import Rig, Source
from tunnel.bench.measure.rotate import duplex_command, figures
from tunnel.bench.measure.sides import start
from tunnel.bench.measure.stats import Spread
from tunnel.bench.measure.testbed import HOST_A, HOST_B
from tunnel.units import MIB

CUTS = 3

_SLOWEST = 20 * MIB  # bytes per second below which a transfer counts as hung
_FELT = 1.5  # seconds of abuse before anything is measured: what a source may do at first is used up
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
    """Seconds of one, CPU seconds in it by program, and what the abuser did meanwhile, in its own words."""

    seconds: float
    cpu: Mapping[str, float]
    abuse: Mapping[str, int]


@dataclass(frozen=True)
class AbuseOutcome:
    """One round: ``plain`` is beside a plain listener that is abused, None where there is none.

    ``lost``: lanes of the link that were lost meanwhile, at either side.
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
        """The part of its throughput that bulk keeps."""
        return self.alone.seconds / self.abused.seconds

    @property
    def plain_ratio(self) -> float | None:
        """The same where the daemon is not what is abused."""
        return self.alone.seconds / self.plain.seconds if self.plain else None


@dataclass(frozen=True)
class Cuts:
    """Lanes that were cut during the abuse.

    ``slowest``: the longest time until one was replaced; ``gap``: until bytes came again; seconds. All of
    ``bytes`` each way arrived as they were sent.
    """

    abuser: str
    cuts: int
    slowest: float
    gap: float
    bytes: int


@dataclass(frozen=True)
class AbuseVerdict:
    """All rounds of one abuse. ``attacker``: its share of a core; ``per_second``: what it did."""

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
        """Whether it is as it is to be."""
        in_time = self.slowest is not None and max(self.slowest, self.gap or 0.0) <= RESUMED_WITHIN
        return self.ratio.median >= self.goal and not self.lost and in_time

    def as_record(self) -> Record:
        """Return what the result file holds."""
        fields = {
            key: value.as_dict() if isinstance(value, Spread) else value for key, value in vars(self).items()
        }
        return {**fields, "reached": self.reached}


def run(
    abusers: Sequence[Abuser], options: AbuseOptions, network: Network, results: Results, progress: Progress
) -> list[AbuseVerdict]:
    """Measure each into ``results``; failures are recorded there too."""
    found = []
    for abuser in abusers:
        progress(f"{abuser.name}: {abuser.what}")
        outcomes: list[AbuseOutcome] = []
        cuts = None
        try:
            for outcome in measure(abuser, options, network):
                outcomes.append(outcome)
                results.add("abuse", **asdict(outcome))
            cuts = measure_cuts(abuser, options, network)
            results.add("abuse_cuts", **asdict(cuts))
        except BenchError as error:
            results.add("failure", contestant=abuser.name, reason=str(error))
        if outcomes:
            found.append(judge(abuser, outcomes, cuts))
            results.add("verdict", **found[-1].as_record())
    return found


def judge(abuser: Abuser, outcomes: Sequence[AbuseOutcome], cuts: Cuts | None) -> AbuseVerdict:
    """Conclude from at least one round."""
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
    """Carry bulk alone and beside the abuse, in turn, through two daemons. Raises BenchError."""
    with tempfile.TemporaryDirectory(prefix="mtunnel-bench-") as scratch, Rig(Path(scratch)) as rig:
        exposed = expose(Path(scratch), network.congestion)
        site = exposed.site
        sink = rig.start_sink(site.exit)
        daemons = start_daemons(rig, exposed)
        _start_listeners(rig, exposed)
        source = rig.start_source(site.entry)
        programs = {**daemons, "sink": sink, "source": source.program}
        bulk = _Bulk(rig, source, programs, options.size)
        bulk.carry()  # not measured: it warms everything up
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
    """Start what the abused reach, and what is abused in their place."""
    for name, role, endpoint in (
        ("callers", "listen", exposed.busy),
        ("callers", "listen", exposed.plain),
        ("callers", "listen", exposed.plain_unix),
        ("stalls", "hold", exposed.held),
    ):
        rig.start_module(f"{role}-{name}", name, role, endpoint)


def lost_lanes(exposed: Exposed) -> int:
    """Lanes of the link of hosta and hostb that were lost so far. Raises BenchError when there is none."""
    links = [link(exposed.site.directory / f"{HOST_A}.control", HOST_B)]
    links.append(link(exposed.site.directory / f"{HOST_B}.control", HOST_A))
    if any(each["state"] != "up" for each in links):
        raise BenchError("the link is down")
    return sum(int(each["resumes"]) for each in links)


class _Bulk:
    """The stream whose throughput counts."""

    def __init__(self, rig: Rig, source: Source, programs: Mapping[str, Program], size: int) -> None:
        self._rig = rig
        self._source = source
        self._programs = programs
        self._size = size

    def carry(self, abuse: Command | None = None) -> Transfer:
        """Carry the bytes once, while ``abuse`` runs if there is any."""
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
    """Let the abuser at it for the block, which begins when the abuse is felt."""
    attacker = Source(rig.start("abuser", command, talks=True))
    try:
        _ask(attacker)  # it has begun when it answers
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
    """Cut lanes while bulk goes both ways and the abuse goes on. Raises BenchError, also for a wrong byte."""
    with tempfile.TemporaryDirectory(prefix="mtunnel-bench-") as scratch, Rig(Path(scratch)) as rig:
        exposed = expose(Path(scratch), network.congestion)
        rig.start_sink(exposed.site.exit)
        start_daemons(rig, exposed)
        _start_listeners(rig, exposed)
        rig.start_source(exposed.site.entry).close()  # the link is up
        options_of_load = ["--streams=1", f"--count={options.cut_size}"]
        called = rig.start(
            "called", [*duplex_command("called", exposed.twin_exit), *options_of_load], talks=True
        )
        called.wait_listening(exposed.twin_exit)
        control = exposed.site.directory / f"{HOST_A}.control"
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
    """Return when bytes of the caller are under way."""
    while not any(stream["bytes_from_local"] > MIB for stream in link(control, HOST_B)["streams"]):
        caller.check()
        time.sleep(0.02)


# -- for people -------------------------------------------------------------------------------------------


def table(found: Sequence[AbuseVerdict]) -> Table:
    """Return the terminal's view."""
    view = Table(title="bench abuse · bulk beside abuse, against bulk alone", title_justify="left")
    view.add_column("abuse")
    headings = ("ratio", "goal", "plain listener", "MiB/s", "attacker's core", "a second", "lanes lost")
    for heading in (*headings, "cut replaced ms", "bytes again ms"):
        view.add_column(heading, justify="right")
    for each in found:
        view.add_row(
            each.abuser,
            str(each.ratio),
            f"{each.goal:.2f}",
            str(each.plain_ratio or ""),
            f"{each.mib_per_s.median:.0f}",
            f"{each.attacker.median:.0%}",
            ", ".join(f"{value:.0f} {key}" for key, value in each.per_second.items()),
            str(each.lost),
            _milliseconds(each.slowest),
            _milliseconds(each.gap),
            style=None if each.reached else "yellow",
        )
    return view


def _milliseconds(seconds: float | None) -> str:
    return "failed" if seconds is None else f"{seconds * 1000:.0f}"
