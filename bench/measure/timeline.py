"""The course of one migration, as both QEMUs tell it in their events, which bear the time of one clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SOURCE, DESTINATION = "a", "b"
EVENTS = {
    SOURCE: ("MIGRATION", "MIGRATION_PASS", "STOP"),
    DESTINATION: ("MIGRATION", "RESUME"),
}
"""What to listen to on each side."""


class MigrationTimeline:
    """When the stream began, the guest stopped here, ran there, and the last of its memory was there.

    Times are seconds since the epoch, None until it is so. ``passes`` counts the passes over the memory.
    """

    def __init__(self) -> None:
        self.began: float | None = None
        self.stopped: float | None = None
        self.resumed: float | None = None
        self.whole: float | None = None
        self.passes = 0

    def note(self, side: str, event: Mapping[str, Any]) -> None:
        """Take in one event of the QEMU on ``side``."""
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
        """Whether the guest runs on the other side and nothing of it is missing there."""
        return None not in {self.began, self.stopped, self.resumed, self.whole}

    @property
    def seconds(self) -> float | None:
        """From the first of the stream until it ``is_over``; None before."""
        if self.began is None or self.resumed is None or self.whole is None:
            return None
        return max(self.resumed, self.whole) - self.began

    @property
    def downtime(self) -> float | None:
        """How long the guest ran on neither side; None before it runs on the other."""
        return self.resumed - self.stopped if self.resumed and self.stopped else None


def _seconds(timestamp: Mapping[str, int]) -> float:
    return timestamp["seconds"] + timestamp["microseconds"] / 1e6
