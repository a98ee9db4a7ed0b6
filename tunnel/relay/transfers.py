"""One line for each migration in the log of both hosts, as far as a relay can know one.

A *transfer* is the streams to one target, in one direction, that overlap in time: with QEMU's migration these
are its main channel and all that multifd and post-copy add. Its line comes when the last of them has ended.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import structlog

from tunnel.relay.pump import Pump
from tunnel.transport.users import user_name

COMPLETE = "complete"
"""The outcome of a stream that ended well."""


@dataclass(slots=True)
class _Transfer:
    since: float
    open: int = 0
    streams: int = 0
    bytes_from_local: int = 0
    bytes_to_local: int = 0
    uids: set[int] = field(default_factory=set)
    outcome: str = COMPLETE


class Transfers:
    """Those of one link."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger) -> None:
        self._log = log
        self._running: dict[tuple[bool, str], _Transfer] = {}
        self._counted: set[int] = set()  # streams, by number

    def began(self, pump: Pump) -> None:
        """A stream carries bytes from now on."""
        key = pump.outwards, pump.target
        transfer = self._running.setdefault(key, _Transfer(time.monotonic()))
        transfer.open += 1
        transfer.streams += 1
        self._counted.add(pump.number)
        if pump.uid is not None:
            transfer.uids.add(pump.uid)

    def ended(self, pump: Pump, outcome: str) -> None:
        """A stream has ended, whether or not it began."""
        if pump.number not in self._counted:
            return
        self._counted.remove(pump.number)
        key = pump.outwards, pump.target
        transfer = self._running[key]
        transfer.open -= 1
        transfer.bytes_from_local += pump.bytes_read
        transfer.bytes_to_local += pump.bytes_written
        if transfer.outcome == COMPLETE:
            transfer.outcome = outcome
        if not transfer.open:
            del self._running[key]
            self._tell(pump, transfer)

    def _tell(self, last: Pump, transfer: _Transfer) -> None:
        users = {"users": ", ".join(sorted(map(user_name, transfer.uids)))} if transfer.uids else {}
        self._log.info(
            "transfer ended",
            direction="out" if last.outwards else "in",
            target=last.target,
            **users,
            streams=transfer.streams,
            bytes_from_local=transfer.bytes_from_local,
            bytes_to_local=transfer.bytes_to_local,
            seconds=round(time.monotonic() - transfer.since, 3),
            outcome=transfer.outcome,
        )
