"""The CPU cost of each kind of lane on this host, and which kind is cheaper; as numbers and as text.

docs/decisions/0060-auto-measures-both-lanes.md explains why CPU time decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NotRequired, TypeAlias, TypedDict

Cost: TypeAlias = float | str
"""CPU seconds per GiB, of both ends of a lane together; or why it could not be measured."""

PLACES = {"kernel": "kernel", "userspace": "daemon"}
"""Where lanes of a kind encrypt."""

_OTHER = {"kernel": "userspace", "userspace": "kernel"}


@dataclass(frozen=True, slots=True)
class LaneCosts:
    """The costs measured on this host."""

    kernel: Cost
    userspace: Cost

    @property
    def kernel_wins(self) -> bool:
        """Whether kernel lanes cost less. A kind that could not be measured loses to one that could.

        If neither could, userspace lanes win: they depend on no rarely used kernel feature.
        """
        if isinstance(self.kernel, str):
            return False
        return isinstance(self.userspace, str) or self.kernel < self.userspace

    @property
    def faults(self) -> str:
        """What could not be measured, as the end of a sentence; "" if everything was."""
        costs = {"kernel": self.kernel, "userspace": self.userspace}
        faults = {kind: cost for kind, cost in costs.items() if isinstance(cost, str)}
        return "".join(f"; {kind} lanes were not measured: {fault}" for kind, fault in faults.items())

    def facts(self) -> dict[str, float | None]:
        """CPU seconds per GiB by kind, for programs; None where unknown."""
        return {"kernel": _number(self.kernel), "userspace": _number(self.userspace)}


class EncryptionStatus(TypedDict):
    """The kind of new lanes, and why, as ``check`` and ``status`` report it; the keys are stable.

    ``cpu_seconds_per_gib`` is ``LaneCosts.facts``, None if not measured. ``engine``: the engine of userspace
    lanes.
    """

    kind: str
    reason: str
    cpu_seconds_per_gib: dict[str, float | None] | None
    engine: NotRequired[str]


def figures(facts: Mapping[str, float | None] | None, kind: str) -> str:
    """Format ``LaneCosts.facts`` in brackets, the ``kind`` in use first; "" for None."""
    if facts is None:
        return ""
    own, other = facts[kind], facts[_OTHER[kind]]
    if own is other is None:
        return " (neither kind could be measured)"
    first = "not measured" if own is None else f"{own:.2f} CPU s/GiB"
    second = "not measured" if other is None else f"{other:.2f}"
    return f" ({first}; in the {PLACES[_OTHER[kind]]} {second})"


def _number(cost: Cost) -> float | None:
    return None if isinstance(cost, str) else round(cost, 3)


class LaneKind(StrEnum):
    """Who encrypts."""

    USERSPACE = "userspace"
    KERNEL = "kernel"


@dataclass(frozen=True, slots=True)
class KernelTlsSupport:
    """The cipher suites that the kernel supports, empty for no kernel lanes; and the reason as text.

    ``costs`` are those of both kinds of lane, if they decided; ``no_module``: kernel TLS is not loaded.
    """

    suites: tuple[str, ...]
    reason: str
    costs: LaneCosts | None = None
    no_module: bool = False


UNASKED = KernelTlsSupport((), "kernel lanes were not requested")
