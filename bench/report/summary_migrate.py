"""Summary of ``bench migrate``: mtunnel against its rivals, by goal and by figure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from tunnel.bench.measure.guest_records import Convergence, MeasuredMigration, Setting, link_text
from tunnel.bench.measure.results import Record
from tunnel.bench.measure.stats import Spread, ratio
from tunnel.bench.report.losses import Loss
from tunnel.units import GIB, MIB

Columns = Sequence[tuple[str, Callable[[MeasuredMigration], float]]]


BEST = "mtunnel's best way"
WAYS = ("mtunnel", "mtunnel-multifd-4", "mtunnel-multifd-8")
"""The modes from which ``BEST`` is chosen in each setting, by the median of throughput."""


@dataclass(frozen=True)
class Goal:
    """Throughput that a mode of ours must reach, and aims at, as a multiple of a rival's; None: no goal.

    ``newest``: applies only to two cores and the QEMU of Debian 13 or newer.
    """

    ours: str
    rival: str
    must: float | None = None
    aim: float | None = None
    newest: bool = False


GOALS = (
    Goal(BEST, "multifd-tls-4", 1.15, 1.35, newest=True),
    Goal("mtunnel-multifd-4", "multifd-tls-4", 1.0, 1.25),
    Goal("mtunnel-multifd-8", "multifd-tls-8"),
    Goal("mtunnel", "native-tls", 2.3, 3.0),
    Goal("mtunnel", "tunnelled-tls", 4.5, 5.5),
)
GUESTS = range(4 * GIB, 8 * GIB + 1)
"""Memory in bytes of the guests that the goals apply to."""
NEWEST_QEMU = 10
"""Major version of QEMU in Debian 13."""


@dataclass(frozen=True)
class Comparison:
    """Our throughput as a multiple of a rival's in one setting, round by round.

    ``ours`` is the mode, also where the goal names ``BEST``. ``ratio`` is None when there is no round in
    which both converged. ``given_up``: how many migrations of ours, and of the rival's, did not converge.
    ``reserved``: why the goal does not apply to this machine, "" if it does.
    """

    setting: Setting
    goal: Goal
    ours: str
    ratio: Spread | None
    given_up: tuple[int, int]
    reserved: str = ""

    @property
    def verdict(self) -> str:
        """Whether the median meets the goal; no goal where the link, or a guest's start, is the limit."""
        if self.ratio is None:
            return "not comparable"
        must, aim = self.goal.must, self.goal.aim
        if must is None or aim is None:
            return "no goal"
        if self.setting.guest_bytes not in GUESTS or self.setting.link_bits_per_s is not None:
            return "no goal"
        if self.reserved:
            return f"no goal: {self.reserved}"
        if self.ratio.median >= aim:
            return "as aimed at"
        return "met" if self.ratio.median >= must else "missed"

    @property
    def who(self) -> str:
        """The mode of ours as text."""
        return self.ours if self.ours == self.goal.ours else f"{self.goal.ours}: {self.ours}"

    def as_record(self) -> Record:
        """Return the fields of the record in the result file."""
        spread = self.ratio.as_dict() if self.ratio else None
        measured = {"mode": self.ours, "ratio": spread, "given_up": self.given_up, "verdict": self.verdict}
        return {**asdict(self.setting), **asdict(self.goal), **measured}


def compare(
    moved: Sequence[MeasuredMigration], records: Sequence[Mapping[str, Any]] = ()
) -> list[Comparison]:
    """Compare our modes with their rivals, in each setting where both took part.

    ``records`` are those of the run: they contain the version of QEMU and the number of cores.
    """
    reservation = _reservation(records)
    return [
        _comparison(setting, goal, ours, own, reservation if goal.newest else "")
        for setting in settings(moved)
        for own in [in_setting(moved, setting)]
        for goal in GOALS
        if (ours := _way(goal, own)) and {ours, goal.rival} <= {m.mode for m in own}
    ]


def _way(goal: Goal, moved: Sequence[MeasuredMigration]) -> str:
    """Return the mode that a goal applies to; "" where none of several converged."""
    if goal.ours != BEST:
        return goal.ours
    speeds = {mode: [m.mib_per_s for m in moved if m.mode == mode and m.converged] for mode in WAYS}
    return max((mode for mode in WAYS if speeds[mode]), key=lambda mode: median(speeds[mode]), default="")


def _reservation(records: Sequence[Mapping[str, Any]]) -> str:
    """Return why goals of the newest QEMU do not apply to a run; "" if they do, or if it is unknown."""
    versions = " ".join(str(record.get("version")) for record in records if record["kind"] == "contestant")
    qemu = re.search(r"QEMU emulator version ((\d+)\.\d+)", versions)
    if qemu and int(qemu[2]) < NEWEST_QEMU:
        return f"QEMU is {qemu[1]} here"
    cores = next((record["machine"]["cores"] for record in records if record["kind"] == "run"), 2)
    return "" if cores == 2 else f"there are {cores} cores here"


def _comparison(
    setting: Setting, goal: Goal, ours: str, moved: Sequence[MeasuredMigration], reserved: str
) -> Comparison:
    own, other = (sum(m.mode == mode and not m.converged for m in moved) for mode in (ours, goal.rival))
    found = _against(moved, ours, goal.rival, lambda m: m.mib_per_s)
    return Comparison(setting, goal, ours, found, (own, other), reserved)


def settings(moved: Sequence[MeasuredMigration]) -> list[Setting]:
    """Return the settings of a run, in the order of their first migration."""
    return list(dict.fromkeys(migration.setting for migration in moved))


def in_setting(moved: Sequence[MeasuredMigration], setting: Setting) -> list[MeasuredMigration]:
    """Return the migrations in one setting."""
    return [migration for migration in moved if migration.setting == setting]


def _against(
    moved: Sequence[MeasuredMigration], ours: str, rival: str, of: Callable[[MeasuredMigration], float]
) -> Spread | None:
    """Return our figure divided by the rival's, by round."""
    own, other = ({m.round: of(m) for m in moved if m.mode == name and m.converged} for name in (ours, rival))
    return ratio(own, other)


# -- where mtunnel loses -------------------------------------------------------------------------------------


def losses(moved: Sequence[MeasuredMigration], limits: Sequence[Convergence]) -> list[Loss]:
    """Return where a rival of a mode of ours was better, each once."""
    found = [loss for s in settings(moved) for goal in GOALS for loss in _lost(in_setting(moved, s), goal)]
    found += [loss for goal in GOALS if goal.ours != BEST for loss in _lost_limits(limits, goal)]
    return list(dict.fromkeys(found))


def _lost(moved: Sequence[MeasuredMigration], goal: Goal) -> Iterator[Loss]:
    costs: Columns = [
        ("time", lambda m: m.seconds),
        ("CPU time per GiB", lambda m: m.cpu_per_gib("a") + m.cpu_per_gib("b")),
        ("downtime", lambda m: m.downtime_seconds or 0.0),
    ]
    mode = _way(goal, moved)
    for figure, cost in costs:
        ours = _against(moved, mode, goal.rival, cost)
        if ours is not None and ours.median > 1.0:
            yield Loss(moved[0].setting, figure, goal.rival, inverted(ours), mode)


def _lost_limits(limits: Sequence[Convergence], goal: Goal) -> Iterator[Loss]:
    for guest, link in dict.fromkeys((limit.guest_bytes, limit.link_bits_per_s) for limit in limits):
        ours, rival = (
            {
                limit.round: float(limit.asked_bytes_per_s)
                for limit in limits
                if (limit.mode, limit.guest_bytes, limit.link_bits_per_s) == (name, guest, link)
            }
            for name in (goal.ours, goal.rival)
        )
        found = ratio(rival, ours)
        if found is not None and found.median > 1.0:
            where = f"{guest / MIB:.0f} MiB guest, {link_text(link)}"
            yield Loss(where, "highest dirty rate", goal.rival, found, goal.ours)


def inverted(spread: Spread) -> Spread:
    """Return the inverse of a ratio."""
    return Spread(1 / spread.median, 1 / spread.high, 1 / spread.low)
