"""An additional session in its worker: its tasks, and cleanup at its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.groups import Stage, identities, staged
from tests.support.lanes import Hosts
from tests.support.waiting import until
from tunnel.lanes.lane import Lane
from tunnel.relay.link import Link
from tunnel.relay.link_plan import LinkState
from tunnel.relay.worker_session import Ticket, WorkerSession
from tunnel.wire.codes import Code

__all__ = ["identities"]


@pytest.fixture
async def stage(identities: Hosts, tmp: Path) -> AsyncIterator[Stage]:
    """Two hosts with two workers each."""
    async with staged(identities, tmp, (2, 2)) as found:
        yield found


class Kept:
    """A session that the test begins directly."""

    def __init__(self, stage: Stage) -> None:
        self.prepared: list[int] = []
        self.over: list[WorkerSession] = []
        self.lanes: list[Lane] = []
        side = stage.a
        plan = side.group.make_further(1, side.workers.all[1]).plan
        self.further = WorkerSession(
            plan, b"hosta".ljust(16), side.workers.all[1], self._prepare, self.over.append
        )
        self.dial = side.group._own._dial
        assert self.dial is not None

    def _prepare(self, link: Link) -> None:
        self.prepared.append(threading.get_ident())

    async def is_over(self) -> None:
        """Wait until the session is cleaned up."""
        await until(lambda: self.over, "for the end")
        await until(lambda: not self.further._tasks, "for its tasks")
        await until(lambda: all(lane.gone.is_set() for lane in self.lanes), "for its lanes")

    async def begin(self) -> Link:
        async def begin() -> None:
            assert self.dial is not None
            self.further._begin(self.dial)

        await self.further.worker.call(begin)
        link = self.further.link
        assert link is not None
        await until(lambda: link.state is LinkState.UP, "for the session")
        self.lanes = list(link.lanes.values())
        return link


def test_a_ticket_is_taken_once() -> None:
    ticket = Ticket()
    assert ticket.take()
    assert not ticket.take()


async def test_it_is_begun_in_the_thread_of_its_worker(stage: Stage) -> None:
    kept = Kept(stage)
    assert kept.further.streams == 0
    assert await kept.further.facts() is None
    link = await kept.begin()
    assert kept.prepared != [threading.get_ident()]
    assert list(kept.further.worker.links) == [link]
    facts = await kept.further.worker.call(kept.further.facts)
    assert facts is not None
    assert facts["state"] == "up"
    await kept.further.worker.call(kept.further.end, Code.NONE, "over")
    assert kept.over == [kept.further]
    assert not kept.further.worker.links
    await kept.is_over()


async def test_end_of_the_session_ends_its_tasks(stage: Stage) -> None:
    kept = Kept(stage)
    link = await kept.begin()
    link.post(link.end, Code.INTERNAL, "the test ends it")
    await kept.is_over()
    assert kept.over == [kept.further]


async def test_a_task_that_fails_ends_the_session_and_is_logged(stage: Stage) -> None:
    kept = Kept(stage)
    link = await kept.begin()

    async def fail() -> None:
        kept.further._keep(_raise(), "dialer")

    await kept.further.worker.call(fail)
    await kept.is_over()
    assert any("ValueError('a fault')" in incident.reason for incident in link.incidents)


async def _raise() -> None:
    await asyncio.sleep(0)
    raise ValueError("a fault")
