"""``mtunnel`` commands as processes, and guests that tests migrate with them."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.daemons import WITHIN
from tests.support.guests import BUSY, MEMORY
from tunnel.proof.local_daemon import MTUNNEL
from tunnel.proof.pattern_guest import Workload, build_image
from tunnel.proof.qemu import Machine, Qemu
from tunnel.proof.verified_pair import Trial
from tunnel.proof.verify import wait_filled

Event = dict[str, Any]


class Command:
    """A running ``mtunnel`` that prints events in JSON, one per line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.events: list[Event] = []
        self.words = ""
        self._process = process

    async def event(self, wanted: Callable[[Event], bool]) -> Event:
        """Read until an event is ``wanted`` and return it; fail when the command exits before."""
        assert self._process.stdout is not None
        while line := await asyncio.wait_for(self._process.stdout.readline(), WITHIN):
            self.events.append(json.loads(line))
            if wanted(self.events[-1]):
                return self.events[-1]
        raise AssertionError(f"mtunnel exited early with status {await self.end()}: {self.words}")

    def interrupt(self) -> None:
        """Send SIGINT, like ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    async def end(self) -> int:
        """Read its output to EOF; return its exit code."""
        output, errors = await asyncio.wait_for(self._process.communicate(), 3 * WITHIN)
        self.events += [json.loads(line) for line in output.splitlines()]
        self.words += errors.decode()
        assert self._process.returncode is not None
        return self._process.returncode

    @property
    def last(self) -> Event:
        """The last event."""
        return self.events[-1]

    def named(self, name: str) -> list[Event]:
        """Return all events of that name."""
        return [event for event in self.events if event["event"] == name]


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[Command]:
    """Run ``mtunnel`` with these arguments and ``--json``; it is killed if it outlives the context."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*MTUNNEL, *arguments, "--json", stdout=pipe, stderr=pipe)
    try:
        yield Command(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def run(*arguments: str) -> tuple[int, Command]:
    """Run ``mtunnel`` to completion; return its exit code, and the command with its events."""
    async with running(*arguments) as command:
        return await command.end(), command


def second_monitor(directory: Path, name: str) -> Path:
    """Return a QMP socket beside the one that the test uses: QEMU serves one client on each."""
    return directory / f"{name}-2.qmp"


@asynccontextmanager
async def waiting_pair(
    directory: Path,
    incoming: str = "defer",
    workload: Workload = BUSY,
    *,
    names: tuple[str, str] = ("web1", "web1"),
    more: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> AsyncIterator[Trial]:
    """Start a filled guest and a QEMU with ``-incoming``, each with a second monitor.

    ``names``: their names; ``more``: additional options of each.
    """
    kernel = directory / "kernel"
    kernel.write_bytes(build_image(workload))

    def machine(side: str, name: str, more: Sequence[str]) -> Machine:
        socket = f"unix:{second_monitor(directory, side)},server=on,wait=off"
        return Machine(kernel, MEMORY, extra=("-qmp", socket, *more), name=name)

    here, there = (machine(*each) for each in zip(("source", "destination"), names, more, strict=True))

    async with (
        await Qemu.start("source", here, directory) as source,
        await Qemu.start("destination", there, directory, incoming=incoming) as destination,
    ):
        await wait_filled(source.monitor, directory, within=60)
        yield Trial(source, destination, directory)
