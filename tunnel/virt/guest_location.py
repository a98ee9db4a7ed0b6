"""On which side a guest is: what was seen on each side, the verdict of both looks, and that in words.

Nothing is concluded that was not looked at. A side that does not answer is UNKNOWN, and no sentence says
"nowhere else" then.
"""

from __future__ import annotations

from enum import StrEnum


class Side(StrEnum):
    """What was seen of the guest on one side."""

    RUNS = "runs"  # alive: it runs, or is paused as it was before
    LEAVING = "leaving"  # alive, and a migration of it is under way
    HELD = "held"  # it is there, and does not run
    BROKEN = "broken"  # its post-copy broke off
    GONE = "gone"  # it is not there
    UNKNOWN = "unknown"  # nobody can look there


class Where(StrEnum):
    """On which side the guest is alive: runs, or is paused as it was before."""

    SOURCE = "source"
    STAYED = "stayed"  # at the source, and nobody can look at the destination
    MOVING = "moving"  # at the source, and a migration of it is under way
    DESTINATION = "destination"
    BOTH = "both"
    BROKEN = "broken"  # its post-copy broke off: it needs both sides to be made whole
    LOST = "lost"  # its post-copy broke off, and one of the sides is no more
    NEITHER = "neither"
    HALTED = "halted"  # it is at the source and does not run, and nobody can look at the destination
    LEFT = "left"  # not at the source, and nobody can look at the destination
    UNKNOWN = "unknown"  # nobody can look at the source


FINAL = frozenset({Where.SOURCE, Where.STAYED, Where.DESTINATION, Where.LEFT, Where.BROKEN})
"""What does not change by itself within a moment."""

_WITHOUT_DESTINATION = {Side.RUNS: Where.STAYED, Side.HELD: Where.HALTED, Side.GONE: Where.LEFT}


def judge(here: Side, there: Side) -> Where:
    """The verdict of a look at the source and one at the destination."""
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
    """The same in words, with the names of the hosts if they are given."""
    one, other = source or "the source", destination or "the destination"
    here = f"{source}, the source" if source else "the source"
    there = f"{destination}, the destination" if destination else "the destination"
    return _SENTENCES[where].format(one=one, other=other, here=here, there=there)


_SENTENCES = {
    Where.SOURCE: "The guest runs on at {here}, and nowhere else.",
    Where.STAYED: "The guest runs on at {here}. Nobody could look at {there}.",
    Where.MOVING: (
        "A migration of the guest is under way at {here}: it still runs there, and may leave at any moment."
    ),
    Where.DESTINATION: "The guest runs at {there}, and nowhere else.",
    Where.BOTH: (
        "The guest RUNS ON BOTH SIDES, {one} and {other}: suspend it on both now, and find out which one has "
        "the newer data before you end any."
    ),
    Where.BROKEN: (
        "The guest is between {one} and {other}, end it on neither: if it does not arrive by itself, take "
        "its post-copy up again (--postcopy --postcopy-resume; by QMP: migrate-recover, migrate with resume)."
    ),
    Where.LOST: (
        "The guest is lost: it was in post-copy, and of its memory only the part at {one} or at {other} is "
        "left. Nothing can make it whole: end what is left, and start it from its disks."
    ),
    Where.NEITHER: "The guest runs neither at {one} nor at {other}.",
    Where.HALTED: (
        "The guest does not run at {here}, and nobody could look at {there}: look there before you let it "
        "run on."
    ),
    Where.LEFT: "The guest has left {one}; that it runs at {other} could not be verified.",
    Where.UNKNOWN: "{one} does not answer: look there and at {other} before you start the guest.",
}
