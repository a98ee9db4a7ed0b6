"""Guests of the lab: started by libvirt, watched through a second monitor, and verified page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunnel.bench.lab.disks import Disk, Volume
from tunnel.bench.lab.domain import Domain
from tunnel.bench.lab.waiting import LabError, until
from tunnel.proof.pattern_guest import GuestState, Workload, build_image
from tunnel.proof.verify import Verified, read_state, verify_guest, wait_filled
from tunnel.units import MIB
from tunnel.virt.qmp import Monitor

if TYPE_CHECKING:
    from tunnel.bench.lab.host import LabHost

_FILL_RATE = 8 * MIB  # bytes per second, the slowest expected: emulated, memory never touched before


class LabGuest:
    """A pattern guest, which may be on any host of the lab; its methods take the host as an argument.

    The methods run their own event loop: call them from plain functions, not from coroutines.
    """

    def __init__(
        self,
        name: str,
        shared: Path,
        *,
        memory: int = 64 * MIB,
        workload: Workload | None = None,
        disks: Sequence[Disk] = (),
        persistent: bool = True,
        touched: bool = False,
    ) -> None:
        """``shared`` is a directory that both hosts see; QEMU's user can write to its ``memory``."""
        self.name = name
        self.persistent = persistent
        self.volumes = [Volume(disk, f"{name}-{number}", shared) for number, disk in enumerate(disks)]
        self._workload = workload or Workload(working_set=min(memory // 4, 16 * MIB), dirty_rate=MIB)
        self._kernel = shared / f"{name}.kernel"
        self.domain = Domain(name, memory, self._kernel, self.volumes, touched)
        self.dumps = shared / "memory"
        self._since: GuestState | None = None

    def start(self, host: LabHost) -> None:
        """Create its disks, start it on ``host`` and wait until it has filled its memory. Raises LabError."""
        self._kernel.write_bytes(build_image(self._workload))
        for volume in self.volumes:
            volume.create(host.plan)
        xml = host.plan.directory / f"{self.name}.xml"
        xml.write_text(self.domain.xml())
        if self.persistent:
            host.virsh("define", str(xml))
            host.virsh("start", self.name)
        else:
            host.virsh("create", str(xml))
        asyncio.run(self._wait_filled(host))

    def prepare_disks(self, host: LabHost) -> None:
        """Create empty images for its disks on ``host``, as a migration with storage requires."""
        for volume in self.volumes:
            volume.prepare(host.plan)

    def read_state(self, host: LabHost) -> GuestState:
        """Return the current state of the guest on ``host``, which may be running or paused."""
        return asyncio.run(self._read_state(host))

    def verify(self, host: LabHost) -> Verified:
        """Verify that the guest on ``host`` is the one that was started, complete and running.

        It is stopped, every page of its memory and every disk is compared, and, if it ran before, it is
        resumed and must continue its heartbeat. Raises VerificationError, HypervisorError when the heartbeat
        has stopped, and LabError when the guest is not there.
        """
        verified, ran = asyncio.run(self._verify(host))
        if ran and host.libvirtd.running:
            until(lambda: self._runs_on(host), f"for libvirt on {host.name} to report {self.name} as running")
        return verified

    def remove(self, hosts: Sequence[LabHost]) -> None:
        """Destroy it on all ``hosts``, and remove its files."""
        for host in hosts:
            host.virsh("destroy", self.name, check=False)
            host.virsh("undefine", self.name, check=False)
            (host.plan.directory / f"{self.name}.xml").unlink(missing_ok=True)
            # A killed QEMU leaves its socket, which a QEMU of another user cannot replace.
            host.plan.outside(self.domain.monitor).unlink(missing_ok=True)
        for volume in self.volumes:
            volume.remove(tuple(host.plan for host in hosts))
        self._kernel.unlink(missing_ok=True)

    def _runs_on(self, host: LabHost) -> bool:
        return host.state(self.name) == "running"

    def _compare_disks(self, host: LabHost) -> None:
        for volume in self.volumes:
            volume.compare(host.plan)

    async def _monitor(self, host: LabHost) -> Monitor:
        socket = host.plan.outside(self.domain.monitor)
        if not socket.is_socket():  # QEMU creates it before libvirt reports the guest as started
            raise LabError(f"no QEMU for {self.name} on {host.name}")
        return await Monitor.connect(socket, f"{self.name} on {host.name}")

    async def _wait_filled(self, host: LabHost) -> None:
        patience = 20 + self.domain.memory / _FILL_RATE
        async with await self._monitor(host) as monitor:
            self._since = await wait_filled(monitor, self.dumps, within=patience)

    async def _read_state(self, host: LabHost) -> GuestState:
        async with await self._monitor(host) as monitor:
            return await read_state(monitor, self.dumps)

    async def _verify(self, host: LabHost) -> tuple[Verified, bool]:
        async with await self._monitor(host) as monitor:
            ran = await monitor.status() == "running"
            since = self._since or await read_state(monitor, self.dumps)
            verified = await verify_guest(monitor, self.dumps, since, held=lambda: self._compare_disks(host))
        self._since = verified.state
        return verified, ran
