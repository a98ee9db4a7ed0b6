"""One log line for each migration, on both hosts, as far as a relay can detect one.

A *transfer* is the streams to one target, in one direction, that overlap in time: for a QEMU migration its
main channel and those of multifd and post-copy. It is logged when the last of them has ended.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from tunnel.host.users import user_name
from tunnel.relay.loops import post
from tunnel.relay.pump import Pump

COMPLETE = "complete"
"""Outcome of a stream that ended cleanly."""


@dataclass(slots=True)
class _Transfer:
    since: float
    open: int = 0
    streams: int = 0
    bytes_from_local: int = 0
    bytes_to_local: int = 0
    uids: set[int] = field(default_factory=set)
    outcome: str = COMPLETE


class TransferLog(Protocol):
    """What a stream table reports its streams to."""

    def began(self, pump: Pump) -> None:
        """Record that a stream was opened."""

    def ended(self, pump: Pump, outcome: str) -> None:
        """Record that a stream has ended, whether or not it was opened."""


class Transfers:
    """The transfers with one peer. ``session`` distinguishes streams that have the same number."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger) -> None:
        self._log = log
        self._running: dict[tuple[bool, str], _Transfer] = {}
        self._counted: set[tuple[object, int]] = set()  # streams, by session and number

    def began(self, pump: Pump, session: object = None) -> None:
        """Record that a stream was opened."""
        key = pump.outwards, pump.target
        transfer = self._running.setdefault(key, _Transfer(time.monotonic()))
        transfer.open += 1
        transfer.streams += 1
        self._counted.add((session, pump.number))
        if pump.uid is not None:
            transfer.uids.add(pump.uid)

    def ended(self, pump: Pump, outcome: str, session: object = None) -> None:
        """Record that a stream has ended, whether or not it was opened."""
        if (session, pump.number) not in self._counted:
            return
        self._counted.remove((session, pump.number))
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


class TransfersElsewhere:
    """Reports the streams of ``session`` to ``transfers``, which belongs to ``loop``."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transfers: Transfers, session: object) -> None:
        self._loop = loop
        self._transfers = transfers
        self._session = session

    def began(self, pump: Pump) -> None:
        """Record that a stream was opened."""
        post(self._loop, self._transfers.began, pump, self._session)

    def ended(self, pump: Pump, outcome: str) -> None:
        """Record that a stream has ended, whether or not it was opened."""
        post(self._loop, self._transfers.ended, pump, outcome, self._session)
