"""Start the two sides of a contestant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tunnel.bench.measure.contestants import Contestant
from tunnel.bench.measure.netns import Network
from tunnel.bench.measure.program import Program
from tunnel.bench.measure.relay_commands import Sides
from tunnel.bench.measure.rig import Rig, scratch_rig
from tunnel.bench.measure.site import Site, lay_out


@contextmanager
def rigged_site(network: Network, *, unix_legs: bool = False) -> Iterator[tuple[Rig, Site]]:
    """Return a rig and a site in a new directory, which are removed at the end of the block."""
    with scratch_rig() as (rig, scratch):
        yield rig, lay_out(scratch, network.congestion, unix_legs=unix_legs)


def start_sides(rig: Rig, contestant: Contestant, site: Site) -> dict[str, Program]:
    """Start side b, then side a, and wait until each listens; return them by role (none without a relay)."""
    if contestant.sides is None:
        return {}
    return start(rig, contestant.sides(site), site)


def start(rig: Rig, sides: Sides, site: Site) -> dict[str, Program]:
    """Start side b, then side a, and wait until each listens; return them by role."""
    b = rig.start("b", sides.b)
    b.wait_listening(site.link)
    a = rig.start("a", sides.a)
    a.wait_listening(site.entry)
    return {"a": a, "b": b}
