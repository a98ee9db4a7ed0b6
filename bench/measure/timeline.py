"""The timeline of one migration, from the events of both QEMUs, whose timestamps are of the same clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SOURCE, DESTINATION = "a", "b"
EVENTS = {
    SOURCE: ("MIGRATION", "MIGRATION_PASS", "STOP"),
    DESTINATION: ("MIGRATION", "RESUME"),
}
"""The events to listen to on each side."""


class MigrationTimeline:
    """When the stream started, the guest stopped on the source, resumed on the destination, and was complete.

    Times are seconds since the epoch, None before that. ``passes`` counts the passes over the memory.
    """

    def __init__(self) -> None:
        self.began: float | None = None
        self.stopped: float | None = None
        self.resumed: float | None = None
        self.whole: float | None = None
        self.passes = 0

    def note(self, side: str, event: Mapping[str, Any]) -> None:
        """Record one event of the QEMU on ``side``."""
        name, when = event["event"], _seconds(event["timestamp"])
        data = event.get("data", {})
        if name == "MIGRATION":
            self._note_status(side, data["status"], when)
        elif name == "MIGRATION_PASS":
            self.passes = int(data["pass"])
        elif name == "STOP" and self.began is not None:
            self.stopped = self.stopped or when
        elif name == "RESUME" and side == DESTINATION:
            self.resumed = self.resumed or when

    def _note_status(self, side: str, status: str, when: float) -> None:
        if side == SOURCE and status in {"setup", "active"}:
            self.began = self.began or when
        elif side == DESTINATION and status == "completed":
            self.whole = when

    @property
    def is_over(self) -> bool:
        """Whether the guest runs on the destination with all of its memory."""
        return None not in {self.began, self.stopped, self.resumed, self.whole}

    @property
    def seconds(self) -> float | None:
        """Time from the start of the stream until it ``is_over``; None before that."""
        if self.began is None or self.resumed is None or self.whole is None:
            return None
        return max(self.resumed, self.whole) - self.began

    @property
    def downtime(self) -> float | None:
        """How long the guest was stopped on both sides; None before it runs on the destination."""
        return self.resumed - self.stopped if self.resumed and self.stopped else None


def _seconds(timestamp: Mapping[str, int]) -> float:
    return timestamp["seconds"] + timestamp["microseconds"] / 1e6
