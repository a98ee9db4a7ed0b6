"""A guest of the lab whose QEMUs are started without libvirt."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from tunnel.bench.lab.domain import MONITORS
from tunnel.bench.lab.guests import LabGuest
from tunnel.bench.lab.host import LabHost
from tunnel.bench.lab.waiting import until
from tunnel.proof.pattern_guest import build_image
from tunnel.proof.qemu import PROGRAM, Machine

MONITOR = f"{MONITORS}/command.qmp"
"""The QMP socket for the command under test: QEMU serves one client on each."""


class BareGuest(LabGuest):
    """A guest that is not managed by libvirt. Its QEMUs run as root, which may always use ``userfaultfd``."""

    def start(self, host: LabHost) -> None:
        """Start QEMU directly, and wait until the guest has filled its memory."""
        self.domain.kernel.write_bytes(build_image(self._workload))
        self._launch(host)
        asyncio.run(self._wait_filled(host))

    def wait_at(self, host: LabHost, incoming: str) -> None:
        """Start the destination QEMU, and check that it waits for the migration."""
        self._launch(host, "-incoming", incoming)
        assert self.status(host) == "inmigrate"

    def status(self, host: LabHost) -> str:
        """Return QEMU's run state on a host."""
        return asyncio.run(self._status(host))

    def _launch(self, host: LabHost, *more: str) -> None:
        monitors = [f"unix:{path},server=on,wait=off" for path in (self.domain.monitor, MONITOR)]
        extra = [word for monitor in monitors for word in ("-qmp", monitor)]
        machine = Machine(self.domain.kernel, self.domain.memory, extra=(*extra, *more))
        path = host.plan.outside(self.domain.monitor)
        path.unlink(missing_ok=True)  # a killed QEMU leaves it
        qemu = host.start([PROGRAM, "-name", self.name, *machine.arguments()])
        until(lambda: _listens(path) or not qemu.running, "for QEMU's monitor")
        assert qemu.running, qemu.output()

    async def _status(self, host: LabHost) -> str:
        async with await self._monitor(host) as monitor:
            return await monitor.status()

    def type_in(self, host: LabHost, line: str) -> str:
        """Run a command in the human monitor of its QEMU on a host; return the output."""
        return asyncio.run(self._type_in(host, line))

    async def _type_in(self, host: LabHost, line: str) -> str:
        async with await self._monitor(host) as monitor:
            return str(await monitor.execute("human-monitor-command", {"command-line": line}))


def _listens(path: Path) -> bool:
    """Return whether the socket accepts connections: its file exists shortly before listen(2)."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0
