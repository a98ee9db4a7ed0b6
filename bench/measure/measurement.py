"""Measurements: the case, one transfer in it, and the round trips of a small stream beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tunnel.units import GIB

OURS, OURS_IN_PYTHON, OURS_WITH_WORKERS = "mtunnel", "mtunnel-python", "mtunnel-2-workers"
"""Contestants: our daemons with default settings, without the compiled engine, and with two workers each."""


@dataclass(frozen=True, order=True)
class Case:
    """The path of the bytes: ``legs`` (local sides: ``tcp``, ``unix``) and number of ``streams``."""

    legs: str
    streams: int

    def __str__(self) -> str:
        return f"{self.legs} legs, {self.streams} stream{'' if self.streams == 1 else 's'}"

    @property
    def unix_legs(self) -> bool:
        """Whether the local sides are unix sockets."""
        return self.legs == "unix"


@dataclass(frozen=True)
class Measurement:
    """One transfer. CPU seconds and resident bytes are by role: ``a``, ``b``, ``source``, ``sink``."""

    contestant: str
    round: int
    case: Case
    bytes: int
    seconds: float
    cpu_seconds: dict[str, float]
    rss_peak: dict[str, int]

    @property
    def gib_per_s(self) -> float:
        """Throughput."""
        return self.bytes / GIB / self.seconds

    @property
    def is_relay(self) -> bool:
        """Whether there was a relay between source and sink."""
        return bool(self.cpu_seconds.keys() & {"a", "b"})

    @property
    def relay_cpu(self) -> float:
        """CPU seconds per GiB of both sides of the relay; 0 without a relay."""
        return self.cpu_per_gib("a", "b")

    @property
    def load_cpu(self) -> float:
        """CPU seconds per GiB of the source and the sink, with their side of the local connections."""
        return self.cpu_per_gib("source", "sink")

    def cpu_per_gib(self, *roles: str) -> float:
        """Return the CPU seconds per GiB of the processes in ``roles``."""
        return sum(self.cpu_seconds.get(role, 0.0) for role in roles) / (self.bytes / GIB)

    def as_record(self) -> dict[str, object]:
        """Return the fields of the record in the result file: ``case`` as its two fields."""
        fields = asdict(self)
        return {"contestant": fields.pop("contestant"), **fields.pop("case"), **fields}


@dataclass(frozen=True)
class Percentiles:
    """Round trips of ``samples`` requests, in seconds: half of them took at most ``p50``, 99 % ``p99``."""

    samples: int
    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Percentiles:
        """Return the percentiles of one round trip or more."""
        ordered = sorted(seconds)
        last = len(ordered) - 1
        return cls(len(ordered), ordered[round(last * 0.5)], ordered[round(last * 0.99)])


@dataclass(frozen=True)
class Latency:
    """Round trips of a small stream: with the relay ``idle``, and ``loaded`` by the case's bulk streams."""

    contestant: str
    round: int
    case: Case
    idle: Percentiles
    loaded: Percentiles

    def as_record(self) -> dict[str, object]:
        """Return the fields of the record in the result file: ``case`` as its two fields."""
        fields = asdict(self)
        return {"contestant": fields.pop("contestant"), **fields.pop("case"), **fields}
