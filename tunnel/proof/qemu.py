"""A child QEMU process with its monitor; always reaped."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tunnel.errors import HypervisorError, UsageError
from tunnel.virt.process import Child
from tunnel.virt.qmp import Monitor

PROGRAM = "qemu-system-x86_64"
_GRACE = 2.0  # seconds; its guests are disposable, and a QEMU in post-copy may ignore SIGTERM


@dataclass(frozen=True, slots=True)
class Machine:
    """The hardware of a guest, which must be the same at source and destination.

    ``memory`` in bytes, a whole number of MiB. ``kernel`` is a Multiboot image. ``name`` is the guest's.
    """

    kernel: Path
    memory: int
    accelerator: str = "tcg"
    model: str = "pc"
    cpu: str = "max"
    extra: Sequence[str] = field(default=())
    name: str = "guest"

    def arguments(self) -> list[str]:
        """Return the QEMU arguments for this hardware."""
        return [
            *("-M", self.model, "-cpu", self.cpu, "-accel", self.accelerator),
            *("-m", f"{self.memory >> 20}M", "-kernel", str(self.kernel)),
            *("-nodefaults", "-display", "none", "-no-reboot", *self.extra),
        ]


class Qemu:
    """A running QEMU with its monitor. Use as an async context manager, or call ``stop()``."""

    def __init__(self, child: Child, monitor: Monitor, serial: Path) -> None:
        self.child = child
        self.monitor = monitor
        self.serial = serial

    @classmethod
    async def start(cls, name: str, machine: Machine, directory: Path, incoming: str | None = None) -> Self:
        """Start QEMU with its monitor, log and serial port in ``directory`` (a short path, for sockets).

        ``incoming`` is a migration URI, or ``defer`` to set it later; without it the guest boots. Raises
        UsageError when QEMU is not installed, HypervisorError with QEMU's output when it does not start.
        """
        require_qemu()
        socket, serial = directory / f"{name}.qmp", directory / f"{name}.serial"
        argv = [
            *(PROGRAM, "-name", machine.name, *machine.arguments()),
            *("-serial", f"file:{serial}", "-qmp", f"unix:{socket},server=on,wait=off"),
            *(("-incoming", incoming) if incoming else ()),
        ]
        child = Child(name, argv, directory / f"{name}.log")
        try:
            return cls(child, await _connect(child, socket), serial)
        except BaseException:
            await child.stop()
            raise

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self.child.pid

    async def stop(self) -> None:
        """Close the monitor, terminate QEMU and reap it. Safe to call twice."""
        try:
            await self.monitor.close()
        finally:
            await self.child.stop(_GRACE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def require_qemu() -> None:
    """Raise UsageError, with install instructions, when QEMU is not on PATH."""
    if shutil.which(PROGRAM) is None:
        raise UsageError(f"{PROGRAM} is not on PATH: apt install qemu-system-x86 (or your system's package)")


async def _connect(child: Child, socket: Path) -> Monitor:
    """Return the monitor of a starting QEMU; raise HypervisorError as soon as that QEMU exits."""
    connecting = asyncio.create_task(Monitor.connect(socket, child.name), name=f"connect {child.name}")
    ending = asyncio.create_task(child.wait(), name=f"watch {child.name}")
    try:
        await asyncio.wait({connecting, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not connecting.done():
            raise HypervisorError(
                f"{child.name}: QEMU exited with {ending.result()}: {child.output().strip()}"
            )
        return connecting.result()
    finally:
        connecting.cancel()
        ending.cancel()
        await asyncio.gather(connecting, ending, return_exceptions=True)
