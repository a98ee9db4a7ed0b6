"""The options of ``bench migrate``, parsed from its command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import psutil

from tunnel.bench.measure.convergence import RateSteps
from tunnel.bench.measure.crossing import Patience
from tunnel.bench.measure.guest_records import TOLERANCE, Setting
from tunnel.bench.measure.migration_modes import MigrationMode, choose
from tunnel.errors import UsageError
from tunnel.proof.pattern_guest import PAGE
from tunnel.units import GIB, MIB, parse_duration, parse_size

_LEAST_GUEST = 32 * MIB
_MOST_GUEST = 60 * GIB  # mapped by the pattern guest
_SPARE = GIB  # for everything but the two QEMUs of a guest
_SLOWEST = 150 * MIB  # bytes per second of a pass over the memory, below which a mode counts as stuck
_LINK = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<unit>[MG])bit")

T = TypeVar("T")


@dataclass(frozen=True)
class MigrateOptions:
    """Sizes in bytes, rates in bytes per second, ``links`` in bits per second (None: not shaped).

    ``downtime`` is QEMU's downtime limit, in seconds. ``converge``: also search for the highest rate that
    converges, among ``steps`` rates up to ``highest``. A migration is aborted after ``patience`` in seconds
    (None: the time of five slow passes), or after more than ``passes``.
    """

    memory: tuple[int, ...]
    dirty_rates: tuple[int, ...]
    modes: tuple[MigrationMode, ...]
    links: tuple[int | None, ...]
    rounds: int
    downtime: float
    converge: bool
    highest: int
    steps: int
    patience: float | None
    passes: int

    @property
    def settings(self) -> list[Setting]:
        """All combinations, by link first."""
        return [
            Setting(memory, rate, link)
            for link in self.links
            for memory in self.memory
            for rate in self.dirty_rates
        ]

    def patience_of(self, memory: int, link: int | None) -> Patience:
        """Return when a migration of a guest of ``memory`` bytes is aborted."""
        slowest = _SLOWEST if link is None else min(_SLOWEST, link // 10)
        return Patience(self.patience or 20 + 5 * memory / slowest, self.passes)

    def grid(self, link: int | None) -> RateSteps:
        """Return the rates of a search: no guest that writes faster than its link converges."""
        highest = self.highest if link is None else min(self.highest, link // 8)
        step = max(highest // self.steps // PAGE, 1) * PAGE
        return RateSteps(step, highest)

    def as_record(self) -> dict[str, object]:
        """Return the options for the result file."""
        chosen = {**asdict(self), "modes": [mode.name for mode in self.modes]}
        return {**chosen, "downtime_tolerance": TOLERANCE}

    def check_machine(self) -> None:
        """Raise UsageError when this machine lacks memory for the largest guest twice."""
        needed = 2 * max(self.memory) + _SPARE
        available = psutil.virtual_memory().available
        if available < needed:
            raise UsageError(
                f"--memory {max(self.memory) / GIB:g}GiB needs {needed / GIB:.1f} GiB for two QEMUs "
                f"and the rest; this machine has {available / GIB:.1f} GiB available"
            )


def parse(
    *,
    memory: str,
    modes: str = "",
    rounds: int = 3,
    dirty_rate: str = "0",
    link: str = "none",
    downtime: str = "300ms",
    converge: bool = False,
    highest: str = "1GiB",
    steps: int = 32,
    patience: str = "0",
    passes: int = 20,
) -> MigrateOptions:
    """Parse the command line. Raises UsageError, naming the invalid option."""
    sizes = _list("--memory", memory, parse_size)
    if wrong := [size for size in sizes if not _LEAST_GUEST <= size <= _MOST_GUEST or size % MIB]:
        raise UsageError(f"--memory must be 32MiB to 60GiB, in whole MiB, not {wrong[0]} bytes")
    limit, waits = _duration("--downtime", downtime), _duration("--patience", patience)
    if not limit:
        raise UsageError("--downtime must be above zero")
    (top,) = _list("--highest", highest, parse_size)
    if top < MIB:
        raise UsageError(f"--highest must be at least 1MiB, not {top} bytes")
    return MigrateOptions(
        memory=sizes,
        dirty_rates=_list("--dirty-rate", dirty_rate, parse_size),
        modes=tuple(choose([name.strip() for name in modes.split(",") if name.strip()])),
        links=_list("--link", link, parse_link),
        rounds=rounds,
        downtime=limit,
        converge=converge,
        highest=top,
        steps=steps,
        patience=waits or None,
        passes=passes,
    )


def parse_link(text: str) -> int | None:
    """Parse ``none``, ``1Gbit`` or ``500Mbit``. Raises ValueError."""
    if text == "none":
        return None
    found = _LINK.fullmatch(text)
    bits = round(float(found["number"]) * {"M": 1e6, "G": 1e9}[found["unit"]]) if found else 0
    if bits < 10**7:
        raise ValueError(f"{text!r} is not a bandwidth: use none, 1Gbit or 500Mbit; the minimum is 10Mbit")
    return bits


def _list(option: str, text: str, read: Callable[[str], T]) -> tuple[T, ...]:
    words: Sequence[str] = [word.strip() for word in text.split(",")]
    try:
        return tuple(dict.fromkeys(read(word) for word in words))
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def _duration(option: str, text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error
