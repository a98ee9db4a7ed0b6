"""A migration without libvirt, through QEMU's monitor at the source and, if given, at the destination.

The commands and their fields are those of QEMU's ``qapi/migration.json``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from tunnel.errors import HypervisorError, UsageError
from tunnel.virt.guest_location import Where, judge
from tunnel.virt.location_probe import HasEnded, look_at_destination, look_at_source, phase_of
from tunnel.virt.move import MoveSummary
from tunnel.virt.move_options import MoveOptions
from tunnel.virt.polling import until
from tunnel.virt.progress import Progress, QemuPhase, of_qemu, phase_in
from tunnel.virt.qmp import Monitor, MonitorLost
from tunnel.virt.qmp_request import capabilities, parameters

if TYPE_CHECKING:
    from qemu.qmp import EventListener

_LONGEST_DOWNTIME = 2_000_000  # milliseconds, QEMU's own limit
_POLL_INTERVAL = 0.15
_SETTLE = 5.0  # seconds for QEMU to leave a passing state


class QmpMove:
    """A ``move.Move`` over QMP. ``listen``: the address for a destination started with ``-incoming defer``.

    Without a ``destination`` its QEMU must be configured and listen already, and the source sends its UUID,
    if its QEMU can (4.2 and newer): a QEMU that waits for another guest refuses. ``destination_ended``: see
    ``look_at_destination``.
    """

    def __init__(
        self,
        source: Monitor,
        destination: Monitor | None,
        uri: str,
        listen: str,
        options: MoveOptions,
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
        self._last: Progress | None = None
        self._switched = False

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
        """Migrate, after configuring both sides; return when the source reports completion.

        When cancelled, a migration in pre-copy is cancelled, and the guest stays; one in post-copy
        continues, since cancelling it would lose the guest.
        """
        for monitor in self._sides:
            monitor.patience = None  # no timeout during the migration, however busy the host
        await self._configure()
        if self._destination is not None and not await _listens(self._destination):
            await self._destination.execute("migrate-incoming", {"uri": self._listen})
        try:
            return await self._transfer()
        except asyncio.CancelledError:
            await _cancel(self._source)
            raise

    async def progress(self) -> Progress | None:
        """Return the progress reported by the source."""
        return self._last

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

    # Before.

    @property
    def _sides(self) -> list[Monitor]:
        return [side for side in (self._source, self._destination) if side is not None]

    async def _configure(self) -> None:
        offered = {side: await _offered(side) for side in self._sides}
        wanted = capabilities(self._options)
        if "postcopy-preempt" not in wanted:
            # Only if both are known to support it: the destination waits for the extra channel.
            common = all("postcopy-preempt" in offers for offers in offered.values())
            wanted["postcopy-preempt"] = self._options.postcopy and self._destination is not None and common
        wanted["validate-uuid"] = self._destination is None and "validate-uuid" in offered[self._source]
        for side, offers in offered.items():
            await _set_capabilities(side, offers, wanted)
            await side.execute("migrate-set-parameters", parameters(self._options))

    # Meanwhile.

    async def _transfer(self) -> MoveSummary:
        with self._source.listen("MIGRATION", "MIGRATION_PASS") as events:
            await self._source.execute("migrate", {"uri": self._uri})
            reply, last = await self._follow(events)
        if (phase := phase_in(reply)) is not QemuPhase.COMPLETED:
            reason = reply.get("error-desc") or "QEMU reported no reason"
            raise HypervisorError(f"{self._source.name}: migration to {self._uri} {phase}: {reason}")
        return MoveSummary(
            last.elapsed,
            reply.get("downtime", 0) / 1000,
            last.sent,
            last.iteration,
            postcopied=QemuPhase.POSTCOPY_ACTIVE in _announced(events),
            setup=reply.get("setup-time", 0) / 1000,
        )

    async def _follow(self, events: EventListener) -> tuple[Mapping[str, Any], Progress]:
        """Poll until QEMU makes no further progress; return its last reply, and the progress in it."""
        while True:
            reply, now = await self._poll()
            if phase_in(reply).ended:
                break
            await self._maybe_switch(now)
            # Events only shorten the poll interval: a lost monitor sends none. Not wait_for: before Python
            # 3.12 it loses a cancellation that coincides with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_INTERVAL):
                    await events.get()
        if phase_in(reply) is not QemuPhase.COMPLETED:
            return reply, now

        async def left() -> bool | None:
            return await self._source.status() != "finish-migrate" or None

        with contextlib.suppress(TimeoutError):  # QEMU computes its times after "completed"
            await until(left, within=_SETTLE, every=_POLL_INTERVAL / 10)
        return await self._poll()

    async def _poll(self) -> tuple[Mapping[str, Any], Progress]:
        reply = await self._source.execute("query-migrate")
        self._last = of_qemu(reply)
        return reply, self._last

    async def _maybe_switch(self, now: Progress) -> None:
        at = self._options.switch_at
        if at is None or self._switched:
            return
        if now.phase == QemuPhase.ACTIVE and now.iteration >= at:
            await self.start_postcopy()
            self._switched = True


async def _offered(side: Monitor) -> set[str]:
    return {entry["capability"] for entry in await side.execute("query-migrate-capabilities")}


async def _set_capabilities(side: Monitor, offers: set[str], wanted: Mapping[str, bool]) -> None:
    missing = [name for name, on in wanted.items() if on and name not in offers]
    if missing:
        raise HypervisorError(f"{side.name}: this QEMU does not support {', '.join(missing)}")
    states = [{"capability": name, "state": on} for name, on in wanted.items() if name in offers]
    try:
        await side.execute("migrate-set-capabilities", {"capabilities": states})
    except MonitorLost:
        raise
    except HypervisorError as error:
        if not wanted["postcopy-ram"]:
            raise
        raise HypervisorError(
            f"{error}. Post-copy needs userfaultfd at the destination: run that QEMU as root, give its user "
            "access to /dev/userfaultfd, or set sysctl vm.unprivileged_userfaultfd=1"
        ) from error


async def _listens(destination: Monitor) -> bool:
    """Return whether the destination already listens (``-incoming tcp:…``) instead of ``defer``."""
    return "socket-address" in await destination.execute("query-migrate")


def _announced(events: EventListener) -> set[str]:
    """Return every status reported in a MIGRATION event."""
    return {str(cast("dict[str, object]", event["data"]).get("status")) for event in events.history}


async def _cancel(source: Monitor) -> None:
    async def ended() -> bool | None:
        return not (await phase_of(source)).under_way or None

    with contextlib.suppress(HypervisorError, TimeoutError):
        if (await phase_of(source)).postcopy:
            return
        await source.execute("migrate_cancel")
        await until(ended, within=_SETTLE, every=_POLL_INTERVAL / 10)


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
    if name not in await _offered(side):
        version = (await side.execute("query-version"))["qemu"]
        number = f"{version['major']}.{version['minor']}.{version['micro']}"
        raise UsageError(
            f"{side.name}: QEMU {number} does not support {name}: use a newer version, or omit it"
        )
