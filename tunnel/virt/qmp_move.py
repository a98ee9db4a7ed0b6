"""A migration without libvirt, through QEMU's monitor at the source and, if given, at the destination."""

from __future__ import annotations

from tunnel.errors import HypervisorError, UsageError
from tunnel.virt.guest_location import Where, judge
from tunnel.virt.location_probe import HasEnded, look_at_destination, look_at_source, phase_of
from tunnel.virt.move import MoveSummary
from tunnel.virt.progress import Progress, of_qemu
from tunnel.virt.qmp import Monitor
from tunnel.virt.qmp_migration import QmpOptions, transfer
from tunnel.virt.qmp_sample import Sample

_LONGEST_DOWNTIME = 2_000_000  # milliseconds, QEMU's own limit


class QmpMove:
    """A ``move.Move`` over QMP. ``listen``: the address for a destination started with ``-incoming defer``.

    ``destination_ended``: see ``look_at_destination``.
    """

    def __init__(
        self,
        source: Monitor,
        destination: Monitor | None,
        uri: str,
        listen: str,
        options: QmpOptions,
        *,
        destination_ended: HasEnded | None = None,
    ) -> None:
        self._source = source
        self._destination = destination
        self._uri = uri
        self._listen = listen
        self._options = options
        self._destination_ended = destination_ended
        self._before = ""
        self._last: Sample | None = None

    async def prepare(self) -> None:
        """Check that the source has a guest and that the destination's QEMU waits for one.

        Raises HypervisorError when not.
        """
        await require_idle(self._source)
        self._before = await self._source.status()
        if self._before not in {"running", "paused"}:
            raise HypervisorError(f"{self._source.name}: QEMU is {self._before} and has no guest to migrate")
        if self._destination is None:
            return
        waiting = await self._destination.status()
        if waiting != "inmigrate":
            name = self._destination.name
            raise HypervisorError(
                f"{name} is {waiting}, not waiting for a guest: start it with -incoming defer"
            )

    async def run(self) -> MoveSummary:
        """Migrate, after configuring the destination."""
        for monitor in filter(None, (self._source, self._destination)):
            monitor.patience = None  # no timeout during the migration, however busy the host
        outcome = await transfer(
            self._source,
            self._uri,
            self._options,
            self._destination,
            None if await self._listens() else self._listen,
            self._keep,
        )
        return MoveSummary(
            outcome.total_seconds,
            outcome.downtime_seconds,
            outcome.transferred,
            outcome.iterations,
            outcome.postcopied,
        )

    async def progress(self) -> Progress | None:
        """Return the progress reported by the source."""
        return of_qemu(self._last) if self._last is not None else None

    async def abort(self) -> None:
        """Abort at the source what ``run`` has started."""
        if self._last is not None:
            await self._source.execute("migrate_cancel")

    async def start_postcopy(self) -> None:
        """Switch to post-copy at the source."""
        await self._source.execute("migrate-start-postcopy")

    async def suspend(self) -> None:
        """Pause the guest until it has arrived."""
        # QEMU then stops the guest itself for the rest of the migration, and resumes it where it ends.
        await self._source.execute("migrate-set-parameters", {"downtime-limit": _LONGEST_DOWNTIME})

    async def where(self) -> Where:
        """Return the side where it is active, in the state from before the migration."""
        here = await look_at_source(self._source, self._before)
        there = await look_at_destination(self._destination, self._before, self._destination_ended)
        return judge(here, there)

    def _keep(self, sample: Sample) -> None:
        self._last = sample

    async def _listens(self) -> bool:
        """Return whether the destination already listens (``-incoming tcp:…``) instead of ``defer``."""
        if self._destination is None:
            return True
        return "socket-address" in await self._destination.execute("query-migrate")


async def require_idle(source: Monitor) -> None:
    """Raise HypervisorError when the QEMU behind ``source`` is already migrating."""
    phase = await phase_of(source)
    if phase.under_way or phase.broken:
        raise HypervisorError(
            f"{source.name}: a migration of this guest is already in progress ({phase}): wait until "
            "query-migrate reports that it has ended"
        )


async def require_capability(side: Monitor, name: str) -> None:
    """Raise UsageError when the QEMU behind ``side`` lacks the migration capability ``name``."""
    offered = {entry["capability"] for entry in await side.execute("query-migrate-capabilities")}
    if name not in offered:
        version = (await side.execute("query-version"))["qemu"]
        number = f"{version['major']}.{version['minor']}.{version['micro']}"
        raise UsageError(
            f"{side.name}: QEMU {number} does not support {name}: use a newer version, or omit it"
        )
