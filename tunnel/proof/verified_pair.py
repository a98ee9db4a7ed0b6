"""A move that is proved: a pattern guest, a place for it to go, and the comparison afterwards."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from tunnel.errors import MigrationError, VerificationError
from tunnel.proof.pattern_guest import Workload, build_image
from tunnel.proof.qemu import Machine, Qemu
from tunnel.proof.verify import Progress, Verified, read_state, verify_guest, wait_filled
from tunnel.units import MIB
from tunnel.virt.qmp_migration import OnSample, QmpOptions, QmpOutcome, migrate

_FILL_RATE = 8 * MIB  # bytes a second, the slowest that is waited for: emulated, memory never touched before


class Trial:
    """Two QEMUs: the guest runs in ``source``, ``destination`` waits for it. An async context manager."""

    def __init__(self, source: Qemu, destination: Qemu, directory: Path) -> None:
        self.source = source
        self.destination = destination
        self.directory = directory

    @classmethod
    async def start(
        cls, directory: Path, memory: int, workload: Workload, *, accelerator: str = "tcg", model: str = "pc"
    ) -> Self:
        """Start both and wait until the guest has filled its ``memory`` (bytes).

        ``directory`` takes sockets, logs and memory slices: an absolute, short path. Raises UsageError when
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
        self, uri: str, listen: str, options: QmpOptions | None = None, on_sample: OnSample | None = None
    ) -> QmpOutcome:
        """Migrate to ``uri``, which must lead to ``listen``, where the destination is told to wait.

        Raises MigrationError, with what the destination's QEMU wrote about it.
        """
        try:
            return await migrate(
                self.source.monitor,
                uri,
                options or QmpOptions(),
                destination=self.destination.monitor,
                listen=listen,
                on_sample=on_sample,
            )
        except MigrationError as error:
            words = self.destination.child.output() or "nothing"
            raise MigrationError(f"{error}\nThe destination's QEMU wrote: {words}") from error

    async def verify(self, progress: Progress | None = None) -> Verified:
        """Prove that the guest arrived whole: stop it, compare every page, let it run on, see it tick.

        Raises VerificationError when it did not, HypervisorError when its heartbeat stands still.
        """
        if await self.source.monitor.status() == "running":
            raise VerificationError("the guest still runs at the source")
        left_as = await read_state(self.source.monitor, self.directory)
        return await verify_guest(self.destination.monitor, self.directory, left_as, progress, wake=True)

    async def stop(self) -> None:
        """End and reap both. Safe to call twice."""
        try:
            await self.source.stop()
        finally:
            await self.destination.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
