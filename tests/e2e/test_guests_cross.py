"""Real guests migrate over every kind of ingress and in every mode, with all of their memory intact."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from tests.support.daemons import TwoHosts
from tests.support.guests import BUSY, MEMORY, MULTIFD, POSTCOPY, PRECOPY, mode_of
from tunnel.proof.free_port import free_port
from tunnel.proof.verified_pair import Trial
from tunnel.virt.move_options import MoveOptions

pytestmark = pytest.mark.slow

MULTIFD_4 = dataclasses.replace(MULTIFD, parallel=4)
each_mode = pytest.mark.parametrize("options", [PRECOPY, MULTIFD_4, POSTCOPY], ids=mode_of)


def place(kind: str, directory: Path, name: str) -> str:
    """Return an unused address."""
    return f"unix:{directory}/{name}" if kind == "unix" else f"tcp:127.0.0.1:{free_port('127.0.0.1')}"


@each_mode
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_guest_crosses(hosts: TwoHosts, tmp: Path, kind: str, options: MoveOptions) -> None:
    there = place(kind, tmp, "there")
    here = hosts.a.leads_to(hosts.b, there, place(kind, tmp, "here"))
    hosts.start()
    async with await Trial.start(tmp, MEMORY, BUSY) as trial:
        await trial.migrate(here, there, options)
        await trial.verify()
    link = hosts.a.link(hosts.b)
    assert link["streams_opened"] >= (5 if options is MULTIFD_4 else 1)
    assert sum(lane["bytes_sent"] for lane in link["lanes"]) > MEMORY * 0.9


async def test_two_guests_cross_at_once_in_opposite_directions(hosts: TwoHosts, tmp: Path) -> None:
    to_b, to_a = place("tcp", tmp, ""), place("unix", tmp, "to_a")
    from_a = hosts.a.leads_to(hosts.b, to_b)
    from_b = hosts.b.leads_to(hosts.a, to_a, place("unix", tmp, "from_b"))
    hosts.start()
    one, two = tmp / "one", tmp / "two"
    one.mkdir()
    two.mkdir()
    async with (
        await Trial.start(one, MEMORY, BUSY) as first,
        await Trial.start(two, MEMORY, dataclasses.replace(BUSY, seed=2)) as second,
    ):
        await asyncio.gather(first.migrate(from_a, to_b, MULTIFD_4), second.migrate(from_b, to_a, PRECOPY))
        await first.verify()
        await second.verify()
