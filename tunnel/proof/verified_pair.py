"""A verified migration: a pattern guest, a destination QEMU, and the comparison of all memory afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from tunnel.errors import HypervisorError, MigrationError, VerificationError
from tunnel.proof.pattern_guest import Workload, build_image
from tunnel.proof.qemu import Machine, Qemu
from tunnel.proof.verify import Progress, Verified, read_state, verify_guest, wait_filled
from tunnel.units import MIB
from tunnel.virt.move import MoveSummary, ShowProgress, completed
from tunnel.virt.move_options import DEFAULTS, MoveOptions
from tunnel.virt.qmp_move import QmpMove

_FILL_RATE = 8 * MIB  # bytes per second, the slowest accepted: TCG, memory not yet touched


class Trial:
    """Two QEMUs: ``source`` runs the guest, ``destination`` waits for it. An async context manager."""

    def __init__(self, source: Qemu, destination: Qemu, directory: Path) -> None:
        self.source = source
        self.destination = destination
        self.directory = directory

    @classmethod
    async def start(
        cls, directory: Path, memory: int, workload: Workload, *, accelerator: str = "tcg", model: str = "pc"
    ) -> Self:
        """Start both and wait until the guest has filled its ``memory`` (bytes).

        ``directory`` holds sockets, logs and memory slices: an absolute, short path. Raises UsageError when
        QEMU is missing, HypervisorError when it does not start or the guest does not fill its memory.
        """
        kernel = directory / "kernel"
        kernel.write_bytes(build_image(workload))
        machine = Machine(kernel, memory, accelerator, model)
        source = await Qemu.start("source", machine, directory)
        try:
            destination = await Qemu.start("destination", machine, directory, incoming="defer")
        except BaseException:
            await source.stop()
            raise
        trial = cls(source, destination, directory)
        try:
            await wait_filled(source.monitor, directory, within=20 + memory / _FILL_RATE)
        except BaseException:
            await trial.stop()
            raise
        return trial

    async def migrate(
        self, uri: str, listen: str, options: MoveOptions = DEFAULTS, show: ShowProgress | None = None
    ) -> MoveSummary:
        """Migrate to ``uri``, which must lead to ``listen``, where the destination listens.

        Raises MigrationError with the location of the guest, and the output of the destination's QEMU.
        """
        monitors = self.source.monitor, self.destination.monitor
        patience = [monitor.patience for monitor in monitors]
        move = QmpMove(*monitors, uri, listen, options)
        try:
            return await completed(move, show)
        except HypervisorError as error:
            output = self.destination.child.output().strip() or "none"
            raise MigrationError(f"{error}\nOutput of the destination's QEMU: {output}") from error
        finally:
            for monitor, seconds in zip(monitors, patience, strict=True):
                monitor.patience = seconds

    async def verify(self, progress: Progress | None = None) -> Verified:
        """Verify the guest at the destination: stop it, compare every page, resume it, wait for a tick.

        Raises VerificationError when a page differs, HypervisorError when its heartbeat has stopped.
        """
        if await self.source.monitor.status() == "running":
            raise VerificationError("the guest is still running at the source")
        left_as = await read_state(self.source.monitor, self.directory)
        return await verify_guest(self.destination.monitor, self.directory, left_as, progress, wake=True)

    async def stop(self) -> None:
        """Terminate and reap both. Safe to call twice."""
        try:
            await self.source.stop()
        finally:
            await self.destination.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
