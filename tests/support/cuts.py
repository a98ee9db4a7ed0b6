"""Cuts of all kinds in the middle of a migration, by a schedule that a seed repeats."""

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
"""Seconds in which something has to get through."""

_LOT = 250 * KIB  # between two cuts, at most
_LITTLE = 10 * KIB  # less than a new lane carries before it has said all that concerns itself


class Kind(StrEnum):
    """What happens to the connection."""

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
"""Of the holes and late answers: shares, and seconds from and to."""


@dataclass(frozen=True)
class Cut:
    """One of a schedule: when ``after`` bytes more have got through, ``kind`` happens.

    To the connection of number ``which``, or to all; ``ways`` and ``seconds`` are those of holes, ``count``
    the bytes of the next connection's life. If it is ``silent``, the host that does not dial hears nothing.
    """

    kind: Kind
    after: int
    which: int | None
    ways: tuple[Way, ...]
    seconds: float
    count: int
    silent: bool


def schedule(seed: int, *, handshake: int, longest: float) -> Iterator[Cut]:
    """Cuts without end. ``handshake``: bytes of a connection until PING was answered; ``longest`` in seconds.

    RESUMED is 114 bytes or more, the questions and answers behind it are 168.
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
    """Cuts what goes through ``cutter`` by a schedule, and counts what it did."""

    def __init__(self, cutter: Cutter, cuts: Iterator[Cut]) -> None:
        self._cutter = cutter
        self._cuts = cuts
        self.done: Counter[Kind] = Counter()
        self.seconds = 0.0  # in holes

    async def until_cut(self, count: int) -> None:
        """Go on until ``count`` connections were cut in all."""
        while self._cutter.cuts < count:
            await self.once()

    async def once(self) -> None:
        """Wait for the next of the schedule to be due, and do it."""
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
