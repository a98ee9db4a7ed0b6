"""One live migration over QMP: configure both sides, start it, poll it, and determine where the guest runs.

The commands and their fields are those of QEMU's ``qapi/migration.json``. Nothing here prints: progress goes
to a callback, the result is a ``QmpOutcome`` or an error.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, cast

from tunnel.errors import HypervisorError, MigrationError
from tunnel.virt.guest_location import sentence
from tunnel.virt.location_probe import phase_of, whereabouts
from tunnel.virt.polling import until
from tunnel.virt.qmp import Monitor, MonitorLost
from tunnel.virt.qmp_sample import QemuPhase, Sample, sample_of

if TYPE_CHECKING:
    from qemu.qmp import EventListener

_UNLIMITED = (1 << 63) - (1 << 20)  # bytes per second; QEMU parses a signed 64-bit number
_SAMPLE_INTERVAL = 0.15
_SETTLE = 5.0  # seconds for the two sides to reach a consistent state

OnSample = Callable[["Sample"], None]


class Mode(StrEnum):
    """The migration mode."""

    PRECOPY = "precopy"
    MULTIFD = "multifd"
    POSTCOPY = "postcopy"


@dataclass(frozen=True, slots=True)
class QmpOptions:
    """Migration options. ``max_bandwidth`` in bytes per second (None = unlimited), times in seconds.

    ``channels`` is for MULTIFD. ``postcopy_after`` is for POSTCOPY: the passes over the memory before the
    switch, 0 = immediately, None = not automatically; QEMU switches only if pre-copy cannot complete within
    ``downtime_limit``. ``preempt`` sends requested pages on a separate channel: None = if both sides are
    known to support it. ``validate_uuid`` makes the destination refuse a guest with another UUID, if the
    source's QEMU supports it (4.2 and newer) and both have one.
    """

    mode: Mode = Mode.PRECOPY
    channels: int = 4
    max_bandwidth: int | None = None
    downtime_limit: float = 0.3
    postcopy_after: int | None = 1
    return_path: bool = True
    preempt: bool | None = None
    auto_converge: bool = False
    validate_uuid: bool = False


@dataclass(frozen=True, slots=True)
class QmpOutcome:
    """A successful migration: bytes, seconds, bytes per second. ``postcopied``: it switched to post-copy."""

    total_seconds: float
    setup_seconds: float
    downtime_seconds: float
    transferred: int
    iterations: int
    postcopied: bool

    @property
    def throughput(self) -> float:
        """Bytes per second after the setup."""
        return self.transferred / max(self.total_seconds - self.setup_seconds, 0.001)


async def migrate(
    source: Monitor,
    uri: str,
    options: QmpOptions = QmpOptions(),
    *,
    destination: Monitor | None = None,
    listen: str | None = None,
    on_sample: OnSample | None = None,
) -> QmpOutcome:
    """Migrate the guest of ``source`` to ``uri``, and return when it runs at the destination.

    Like ``transfer``, but raises MigrationError with the location of the guest, and with a ``destination``
    verifies there that the guest has arrived.
    """
    before = ""
    try:
        before = await source.status()
        outcome = await transfer(source, uri, options, destination, listen, on_sample)
        await _confirm(source, destination, before)
    except HypervisorError as error:
        where = sentence(await whereabouts(source, destination, before))
        raise MigrationError(f"{error}\n{where}") from error
    return outcome


async def transfer(
    source: Monitor,
    uri: str,
    options: QmpOptions = QmpOptions(),
    destination: Monitor | None = None,
    listen: str | None = None,
    on_sample: OnSample | None = None,
) -> QmpOutcome:
    """Migrate the guest of ``source`` to ``uri``, and return when QEMU there reports completion.

    With a ``destination`` (started with ``-incoming defer``) that side is configured too and made to listen
    on ``listen``; without one the caller has done both. Raises HypervisorError; use ``look_at_source`` and
    ``look_at_destination`` to locate the guest then. When cancelled, a migration started by this call is
    cancelled if in pre-copy, and the guest stays; one in post-copy continues, since cancelling it would lose
    the guest.
    """
    started = False
    try:
        await _configure(source, destination, options)
        if destination is not None and listen is not None:
            await destination.execute("migrate-incoming", {"uri": listen})
        started = True
        return await _Transferred(source, options, on_sample).run(uri)
    except asyncio.CancelledError:
        if started:
            await _cancel(source)
        raise


async def _configure(source: Monitor, destination: Monitor | None, options: QmpOptions) -> None:
    sides = [side for side in (source, destination) if side is not None]
    offered = {side: await _offered(side) for side in sides}
    postcopy, preempt = options.mode is Mode.POSTCOPY, options.preempt
    if preempt is None:
        # Only if both are known to support it: the destination waits for the extra channel.
        common = all("postcopy-preempt" in offers for offers in offered.values())
        preempt = destination is not None and common
    wanted = {
        "events": True,
        "return-path": options.return_path,
        "multifd": options.mode is Mode.MULTIFD,
        "postcopy-ram": postcopy,
        "postcopy-preempt": postcopy and preempt,
        "auto-converge": options.auto_converge,
        "validate-uuid": options.validate_uuid and "validate-uuid" in offered[source],
    }
    for side, offers in offered.items():
        await _set_capabilities(side, offers, wanted)
        await side.execute("migrate-set-parameters", _parameters(options))


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


def _parameters(options: QmpOptions) -> dict[str, object]:
    limit = _UNLIMITED if options.max_bandwidth is None else options.max_bandwidth
    parameters: dict[str, object] = {
        "max-bandwidth": limit,
        "max-postcopy-bandwidth": limit,
        "downtime-limit": round(options.downtime_limit * 1000),
    }
    if options.mode is Mode.MULTIFD:
        parameters["multifd-channels"] = options.channels
    return parameters


class _Transferred:
    """The migration at the source, from the ``migrate`` command to its end."""

    def __init__(self, source: Monitor, options: QmpOptions, on_sample: OnSample | None) -> None:
        self._source = source
        self._options = options
        self._on_sample = on_sample
        self._switch_asked = False

    async def run(self, uri: str) -> QmpOutcome:
        with self._source.listen("MIGRATION", "MIGRATION_PASS") as events:
            await self._source.execute("migrate", {"uri": uri})
            answer = await self._follow(events)
        sample = sample_of(answer)
        if sample.phase is not QemuPhase.COMPLETED:
            reason = answer.get("error-desc") or "QEMU reported no reason"
            raise HypervisorError(f"{self._source.name}: migration to {uri} {sample.phase}: {reason}")
        return QmpOutcome(
            total_seconds=sample.elapsed,
            setup_seconds=answer.get("setup-time", 0) / 1000,
            downtime_seconds=answer.get("downtime", 0) / 1000,
            transferred=sample.transferred,
            iterations=sample.iteration,
            postcopied=QemuPhase.POSTCOPY_ACTIVE in _announced(events),
        )

    async def _follow(self, events: EventListener) -> dict[str, Any]:
        while True:
            answer: dict[str, Any] = await self._source.execute("query-migrate")
            sample = sample_of(answer)
            if self._on_sample:
                self._on_sample(sample)
            if sample.phase.ended:
                return await self._settled(answer)
            await self._maybe_switch(sample)
            # Events only shorten the poll interval: a lost monitor sends none. Not wait_for: before Python
            # 3.12 it loses a cancellation that coincides with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SAMPLE_INTERVAL):
                    await events.get()

    async def _settled(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return the final figures: QEMU computes its times after "completed", before "postmigrate"."""
        if sample_of(answer).phase is not QemuPhase.COMPLETED:
            return answer

        async def left() -> bool:
            return await self._source.status() != "finish-migrate"

        with contextlib.suppress(TimeoutError):
            await until(left, within=_SETTLE, every=_SAMPLE_INTERVAL / 10)
        return cast("dict[str, Any]", await self._source.execute("query-migrate"))

    async def _maybe_switch(self, sample: Sample) -> None:
        after = self._options.postcopy_after
        if self._options.mode is not Mode.POSTCOPY or after is None or self._switch_asked:
            return
        if sample.phase is QemuPhase.ACTIVE and sample.iteration > after:
            await self._source.execute("migrate-start-postcopy")
            self._switch_asked = True


def _announced(events: EventListener) -> set[str]:
    """Return every status reported in a MIGRATION event."""
    return {str(cast("dict[str, object]", event["data"]).get("status")) for event in events.history}


async def _confirm(source: Monitor, destination: Monitor | None, expected: str) -> None:
    """Verify that the guest is ``expected`` (running, or paused) at the destination, not at the source."""
    if await source.status() == "running":
        raise HypervisorError(f"{source.name}: the migration completed, but the guest is still running here")
    if destination is None:
        return

    async def arrived() -> bool:
        return await destination.status() == expected

    try:
        await until(arrived, within=_SETTLE, every=_SAMPLE_INTERVAL / 10)
    except TimeoutError:
        raise HypervisorError(
            f"{destination.name}: the guest arrived, but is {await destination.status()}, not {expected}"
        ) from None


async def _cancel(source: Monitor) -> None:
    async def ended() -> bool:
        phase = await phase_of(source)
        return phase is QemuPhase.NONE or phase.ended

    with contextlib.suppress(HypervisorError, TimeoutError):
        if (await phase_of(source)).startswith("postcopy"):
            return
        await source.execute("migrate_cancel")
        await until(ended, within=_SETTLE, every=_SAMPLE_INTERVAL / 10)
