"""Network faults of all kinds during a migration, by a schedule that a seed reproduces."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from tests.support.cutter import Cutter, Fate, Way
from tests.support.waiting import until
from tunnel.units import KIB

PATIENCE = 90.0
"""Timeout in seconds for data to pass."""

_LOT = 250 * KIB  # between two cuts, at most
_LITTLE = 10 * KIB  # less than the handshake and session frames of a new lane


class Kind(StrEnum):
    """The kind of fault of the connection."""

    RESET = "RST"
    END = "FIN"
    HANDSHAKE = "RST, and again in the handshake"
    ANSWER = "RST, and again about when RESUME is answered"
    LATE = "RST, and the next answers come late"
    HOLE = "nothing gets through for a while"
    HOLE_AND_RESET = "nothing gets through for a while, then RST"
    DARK = "RST, and nothing gets through for a while"


_SHARES = {
    Kind.RESET: 30,
    Kind.END: 18,
    Kind.HANDSHAKE: 15,
    Kind.ANSWER: 20,
    Kind.LATE: 5,
    Kind.HOLE: 4,
    Kind.HOLE_AND_RESET: 4,
    Kind.DARK: 4,
}
_DURATIONS = ((0.86, 0.1, 0.5), (0.12, 0.5, 2.0), (0.02, 2.0, 10.0))
"""Durations of holes and late answers: probability, and range in seconds."""


@dataclass(frozen=True)
class Cut:
    """One fault of a schedule: ``kind`` happens after ``after`` more bytes have passed.

    It applies to connection number ``which``, or to all; ``ways`` and ``seconds`` are those of holes,
    ``count`` is the number of bytes of the next connection. If ``silent``, the accepting host gets no RST.
    """

    kind: Kind
    after: int
    which: int | None
    ways: tuple[Way, ...]
    seconds: float
    count: int
    silent: bool


def schedule(seed: int, *, handshake: int, longest: float) -> Iterator[Cut]:
    """Yield faults forever. ``handshake``: bytes of a connection up to PONG; ``longest`` hole in seconds.

    RESUMED is 114 bytes or more, the probes and verdicts after it are 168.
    """
    chance = random.Random(seed)
    while True:
        (kind,) = chance.choices(list(_SHARES), list(_SHARES.values()))
        about = (handshake - 330, handshake - 90) if kind is Kind.ANSWER else (1, handshake)
        ((_, least, most),) = chance.choices(_DURATIONS, [share for share, *_ in _DURATIONS])
        yield Cut(
            kind=kind,
            after=chance.randrange(_LITTLE if chance.random() < 0.2 else _LOT),
            which=chance.choice((None, 0, 1)),
            ways=chance.choice(((Way.THERE,), (Way.BACK,), (Way.THERE, Way.BACK))),
            seconds=min(chance.uniform(least, most), longest),
            count=chance.randrange(*about),
            silent=chance.random() < 0.5,
        )


class Abuse:
    """Applies the faults of a schedule to the connections of ``cutter``, and counts them."""

    def __init__(self, cutter: Cutter, cuts: Iterator[Cut]) -> None:
        self._cutter = cutter
        self._cuts = cuts
        self.done: Counter[Kind] = Counter()
        self.seconds = 0.0  # in holes

    async def until_cut(self, count: int) -> None:
        """Continue until ``count`` connections were cut in total."""
        while self._cutter.cuts < count:
            await self.once()

    async def once(self) -> None:
        """Wait for the next fault of the schedule, and apply it."""
        cut, cutter = next(self._cuts), self._cutter
        due = cutter.carried + cut.after
        await until(lambda: cutter.carried >= due, f"for {cut}, after {self.done}", PATIENCE)
        self.done[cut.kind] += 1
        match cut.kind:
            case Kind.HANDSHAKE | Kind.ANSWER:
                cutter.next_ones(Fate(cut_after=cut.count, silent=cut.silent))
            case Kind.LATE:
                cutter.next_ones(Fate(hold_after=cut.count // 2, seconds=cut.seconds))
            case Kind.HOLE | Kind.HOLE_AND_RESET:
                await self._hole(cut)
        if cut.kind is not Kind.HOLE:
            orderly = cut.kind is Kind.END
            cutter.cut(orderly=orderly, silent=cut.silent and not orderly, which=cut.which)
        if cut.kind is Kind.DARK:
            await self._hole(cut)

    async def _hole(self, cut: Cut) -> None:
        self._cutter.stall(*cut.ways)
        await asyncio.sleep(cut.seconds)
        self._cutter.flow()
        self.seconds += cut.seconds

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} times {kind}" for kind, count in self.done.items())
        cuts, connections = self._cutter.cuts, self._cutter.connections
        return f"{cuts} of {connections} connections cut ({kinds}), {self.seconds:.0f} s in holes"
