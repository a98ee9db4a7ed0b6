"""The location of a guest: its state on each side, the result of both, and that as text.

Nothing is concluded about a side that was not checked. A side that does not answer is UNKNOWN, and the text
does not contain "nowhere else" then.
"""

from __future__ import annotations

from enum import StrEnum


class Side(StrEnum):
    """The state of the guest on one side."""

    RUNS = "runs"  # active: running, or paused as before the migration
    LEAVING = "leaving"  # active, with a migration in progress
    HELD = "held"  # present, but not running
    BROKEN = "broken"  # post-copy failed
    GONE = "gone"  # not present
    UNKNOWN = "unknown"  # this side cannot be checked


class Where(StrEnum):
    """The side where the guest is active: running, or paused as before the migration."""

    SOURCE = "source"
    STAYED = "stayed"  # at the source; the destination cannot be checked
    MOVING = "moving"  # at the source, with a migration in progress
    DESTINATION = "destination"
    BOTH = "both"
    BROKEN = "broken"  # post-copy failed: recovery needs both sides
    LOST = "lost"  # post-copy failed, and one of the sides is gone
    NEITHER = "neither"
    HALTED = "halted"  # at the source, not running; the destination cannot be checked
    LEFT = "left"  # not at the source; the destination cannot be checked
    UNKNOWN = "unknown"  # the source cannot be checked


FINAL = frozenset({Where.SOURCE, Where.STAYED, Where.DESTINATION, Where.LEFT, Where.BROKEN})
"""Results that do not change on their own within a moment."""

_WITHOUT_DESTINATION = {Side.RUNS: Where.STAYED, Side.HELD: Where.HALTED, Side.GONE: Where.LEFT}


def judge(here: Side, there: Side) -> Where:
    """Return the location from the states at the source and the destination."""
    if Side.BROKEN in {here, there}:
        return Where.LOST if Side.GONE in {here, there} else Where.BROKEN
    if here is Side.UNKNOWN:
        return Where.UNKNOWN
    if there is Side.RUNS:
        return Where.BOTH if here in {Side.RUNS, Side.LEAVING} else Where.DESTINATION
    if here is Side.LEAVING:
        return Where.MOVING
    if there is Side.UNKNOWN:
        return _WITHOUT_DESTINATION[here]
    return Where.SOURCE if here is Side.RUNS else Where.NEITHER


def sentence(where: Where, source: str = "", destination: str = "") -> str:
    """Return ``where`` as a sentence, with the names of the hosts if given."""
    one, other = source or "the source", destination or "the destination"
    here = f"{source}, the source" if source else "the source"
    there = f"{destination}, the destination" if destination else "the destination"
    return _SENTENCES[where].format(one=one, other=other, here=here, there=there)


_SENTENCES = {
    Where.SOURCE: "The guest is still running at {here}, and nowhere else.",
    Where.STAYED: "The guest is still running at {here}. Could not check {there}.",
    Where.MOVING: (
        "A migration of the guest is in progress at {here}: it still runs there, and may leave at any moment."
    ),
    Where.DESTINATION: "The guest is running at {there}, and nowhere else.",
    Where.BOTH: (
        "The guest is RUNNING ON BOTH SIDES, {one} and {other}: suspend it on both now, and find out which "
        "one has the newer data before shutting down either."
    ),
    Where.BROKEN: (
        "The guest is split between {one} and {other}: do not shut it down on either. If post-copy does not "
        "complete, resume it (--postcopy --postcopy-resume; with QMP: migrate-recover, migrate with resume)."
    ),
    Where.LOST: (
        "The guest is lost: it was in post-copy, and only the part of its memory at {one} or at {other} is "
        "left. It cannot be recovered: destroy what is left, and start it from its disks."
    ),
    Where.NEITHER: "The guest runs neither at {one} nor at {other}.",
    Where.HALTED: (
        "The guest is not running at {here}. Could not check {there}: check it before resuming the guest."
    ),
    Where.LEFT: "The guest has left {one}; could not verify that it is running at {other}.",
    Where.UNKNOWN: "{one} does not respond: check it and {other} before starting the guest.",
}
