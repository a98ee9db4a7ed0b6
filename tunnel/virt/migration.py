"""One live migration over QMP: set both sides up, start it, follow it, and say where the guest runs now.

The commands and their fields are those of QEMU's ``qapi/migration.json``. Nothing here prints: progress goes
to a callback, the end is an ``Outcome`` or an error.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, cast

from tunnel.errors import HypervisorError, MigrationError
from tunnel.virt.polling import until
from tunnel.virt.qmp import Monitor, MonitorLost

if TYPE_CHECKING:
    from qemu.qmp import EventListener

_UNLIMITED = (1 << 63) - (1 << 20)  # bytes a second; QEMU parses a signed 64-bit number
_SAMPLE_INTERVAL = 0.15
_SETTLE = 5.0  # seconds for the two sides to agree on where the guest runs
_GONE = "gone"  # these two are ours, beside the run states of QEMU
_UNKNOWN = "unknown"

OnSample = Callable[["Sample"], None]


class Mode(StrEnum):
    """How the memory moves."""

    PRECOPY = "precopy"
    MULTIFD = "multifd"
    POSTCOPY = "postcopy"


class Phase(StrEnum):
    """QEMU's MigrationStatus."""

    NONE = "none"
    SETUP = "setup"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    ACTIVE = "active"
    POSTCOPY_DEVICE = "postcopy-device"
    POSTCOPY_ACTIVE = "postcopy-active"
    POSTCOPY_PAUSED = "postcopy-paused"
    POSTCOPY_RECOVER_SETUP = "postcopy-recover-setup"
    POSTCOPY_RECOVER = "postcopy-recover"
    COMPLETED = "completed"
    FAILED = "failed"
    FAILING = "failing"
    COLO = "colo"
    PRE_SWITCHOVER = "pre-switchover"
    DEVICE = "device"
    WAIT_UNPLUG = "wait-unplug"

    @property
    def ended(self) -> bool:
        """Whether QEMU goes no further by itself."""
        return self in {Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED, Phase.POSTCOPY_PAUSED}


@dataclass(frozen=True, slots=True)
class Options:
    """How to migrate. ``max_bandwidth`` in bytes a second (None = unlimited), ``downtime_limit`` in seconds.

    ``channels`` is for MULTIFD. ``postcopy_after`` is for POSTCOPY: the passes over the memory before the
    switch, 0 = at once, None = not by itself; QEMU switches only a guest that it could not move within
    ``downtime_limit`` anyway. ``preempt`` gives the pages that the guest waits for a channel of their own:
    None = if both sides are known to have it.
    """

    mode: Mode = Mode.PRECOPY
    channels: int = 4
    max_bandwidth: int | None = None
    downtime_limit: float = 0.3
    postcopy_after: int | None = 1
    return_path: bool = True
    preempt: bool | None = None
    auto_converge: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """Where a migration stands, by the source's figures: bytes, seconds, bytes a second, pages a second.

    ``iteration`` counts the passes over the memory, from 1.
    """

    phase: Phase
    elapsed: float
    transferred: int
    remaining: int
    total: int
    dirty_pages_rate: int
    iteration: int
    throughput: float
    expected_downtime: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """A migration that succeeded: bytes, seconds, bytes a second. ``postcopied``: the switch happened."""

    total_seconds: float
    setup_seconds: float
    downtime_seconds: float
    transferred: int
    iterations: int
    postcopied: bool

    @property
    def throughput(self) -> float:
        """Bytes a second over everything after the setup."""
        return self.transferred / max(self.total_seconds - self.setup_seconds, 0.001)


async def migrate(
    source: Monitor,
    uri: str,
    options: Options = Options(),
    *,
    destination: Monitor | None = None,
    listen: str | None = None,
    on_sample: OnSample | None = None,
) -> Outcome:
    """Migrate the guest of ``source`` to ``uri``, and return when it runs at the destination.

    With a ``destination`` (started with ``-incoming defer``) that side is set up too and told to listen on
    ``listen``; without one somebody else has done both. Raises MigrationError, saying where the guest runs
    now. When cancelled, a migration that is still in pre-copy is cancelled and the guest stays; one in
    post-copy goes on, since cancelling that would lose the guest.
    """
    try:
        expected = await source.status()
        await _configure(source, destination, options)
        if destination is not None and listen is not None:
            await destination.execute("migrate-incoming", {"uri": listen})
        outcome = await _Transfer(source, options, on_sample).run(uri)
        await _confirm(source, destination, expected)
        return outcome
    except asyncio.CancelledError:
        await _cancel(source)
        raise
    except HypervisorError as error:
        raise MigrationError(f"{error}\n{await whereabouts(source, destination)}") from error


async def whereabouts(source: Monitor, destination: Monitor | None) -> str:
    """One sentence: on which side the guest runs, after giving both a moment to settle."""

    async def settled() -> bool | None:
        states = await _run_states(source, destination)
        return states.count("running") == 1 or set(states) <= {_GONE, _UNKNOWN} or None

    with contextlib.suppress(TimeoutError):
        await until(settled, within=_SETTLE, every=_SAMPLE_INTERVAL)
    here, there = await _run_states(source, destination)
    match here == "running", there == "running":
        case True, False:
            return "The guest runs on at the source."
        case False, True:
            return "The guest runs at the destination."
        case True, True:
            return "The guest RUNS ON BOTH SIDES: stop one of them now."
        case _:
            return f"The guest runs on neither side: source {here}, destination {there}."


async def _run_states(source: Monitor, destination: Monitor | None) -> list[str]:
    return [await _run_state(source), await _run_state(destination) if destination else _UNKNOWN]


async def _run_state(monitor: Monitor) -> str:
    try:
        return await monitor.status()
    except MonitorLost:
        return _GONE


async def _configure(source: Monitor, destination: Monitor | None, options: Options) -> None:
    sides = [side for side in (source, destination) if side is not None]
    offered = {side: await _offered(side) for side in sides}
    postcopy, preempt = options.mode is Mode.POSTCOPY, options.preempt
    if preempt is None:
        # Only when both are known to understand it: the destination waits for the extra channel.
        common = all("postcopy-preempt" in offers for offers in offered.values())
        preempt = destination is not None and common
    wanted = {
        "events": True,
        "return-path": options.return_path,
        "multifd": options.mode is Mode.MULTIFD,
        "postcopy-ram": postcopy,
        "postcopy-preempt": postcopy and preempt,
        "auto-converge": options.auto_converge,
    }
    for side, offers in offered.items():
        await _set_capabilities(side, offers, wanted)
        await side.execute("migrate-set-parameters", _parameters(options))


async def _offered(side: Monitor) -> set[str]:
    return {entry["capability"] for entry in await side.execute("query-migrate-capabilities")}


async def _set_capabilities(side: Monitor, offers: set[str], wanted: Mapping[str, bool]) -> None:
    missing = [name for name, on in wanted.items() if on and name not in offers]
    if missing:
        raise HypervisorError(f"{side.name}: this QEMU offers no {', '.join(missing)}")
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


def _parameters(options: Options) -> dict[str, object]:
    limit = _UNLIMITED if options.max_bandwidth is None else options.max_bandwidth
    parameters: dict[str, object] = {
        "max-bandwidth": limit,
        "max-postcopy-bandwidth": limit,
        "downtime-limit": round(options.downtime_limit * 1000),
    }
    if options.mode is Mode.MULTIFD:
        parameters["multifd-channels"] = options.channels
    return parameters


class _Transfer:
    """The source's part, from the ``migrate`` command to its end."""

    def __init__(self, source: Monitor, options: Options, on_sample: OnSample | None) -> None:
        self._source = source
        self._options = options
        self._on_sample = on_sample
        self._switch_asked = False

    async def run(self, uri: str) -> Outcome:
        with self._source.listen("MIGRATION", "MIGRATION_PASS") as events:
            await self._source.execute("migrate", {"uri": uri})
            answer = await self._follow(events)
        sample = _sample(answer)
        if sample.phase is not Phase.COMPLETED:
            reason = answer.get("error-desc") or "QEMU gives no reason"
            raise HypervisorError(f"{self._source.name}: migration to {uri} {sample.phase}: {reason}")
        return Outcome(
            total_seconds=sample.elapsed,
            setup_seconds=answer.get("setup-time", 0) / 1000,
            downtime_seconds=answer.get("downtime", 0) / 1000,
            transferred=sample.transferred,
            iterations=sample.iteration,
            postcopied=Phase.POSTCOPY_ACTIVE in _announced(events),
        )

    async def _follow(self, events: EventListener) -> dict[str, Any]:
        while True:
            answer: dict[str, Any] = await self._source.execute("query-migrate")
            sample = _sample(answer)
            if self._on_sample:
                self._on_sample(sample)
            if sample.phase.ended:
                return await self._settled(answer)
            await self._maybe_switch(sample)
            # An event is only a reason to look earlier: a monitor that is lost sends none. Not wait_for:
            # before Python 3.12 it loses a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SAMPLE_INTERVAL):
                    await events.get()

    async def _settled(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The figures of the whole: QEMU works out its times after "completed", before "postmigrate"."""
        if _sample(answer).phase is not Phase.COMPLETED:
            return answer

        async def left() -> bool | None:
            return await self._source.status() != "finish-migrate" or None

        with contextlib.suppress(TimeoutError):
            await until(left, within=_SETTLE, every=_SAMPLE_INTERVAL / 10)
        return cast("dict[str, Any]", await self._source.execute("query-migrate"))

    async def _maybe_switch(self, sample: Sample) -> None:
        after = self._options.postcopy_after
        if self._options.mode is not Mode.POSTCOPY or after is None or self._switch_asked:
            return
        if sample.phase is Phase.ACTIVE and sample.iteration > after:
            await self._source.execute("migrate-start-postcopy")
            self._switch_asked = True


def _announced(events: EventListener) -> set[str]:
    """Every status that a MIGRATION event has named."""
    return {str(cast("dict[str, object]", event["data"]).get("status")) for event in events.history}


def _sample(answer: Mapping[str, Any]) -> Sample:
    """Read a ``query-migrate`` answer; in the setup it holds no figures yet."""
    ram = answer.get("ram", {})
    return Sample(
        phase=Phase(answer.get("status", Phase.NONE)),
        elapsed=answer.get("total-time", 0) / 1000,
        transferred=ram.get("transferred", 0),
        remaining=ram.get("remaining", 0),
        total=ram.get("total", 0),
        dirty_pages_rate=ram.get("dirty-pages-rate", 0),
        iteration=ram.get("dirty-sync-count", 0),
        throughput=ram.get("mbps", 0.0) * 1e6 / 8,
        expected_downtime=answer.get("expected-downtime", 0) / 1000,
    )


async def _confirm(source: Monitor, destination: Monitor | None, expected: str) -> None:
    """The source's word is not enough: see the guest ``expected`` (running, or paused) at the destination."""
    if await source.status() == "running":
        raise HypervisorError(f"{source.name}: the migration completed, but the guest still runs here")
    if destination is None:
        return

    async def arrived() -> bool | None:
        return await destination.status() == expected or None

    try:
        await until(arrived, within=_SETTLE, every=_SAMPLE_INTERVAL / 10)
    except TimeoutError:
        raise HypervisorError(
            f"{destination.name}: the guest arrived, but is {await destination.status()}, not {expected}"
        ) from None


async def _cancel(source: Monitor) -> None:
    async def ended() -> bool | None:
        phase = _sample(await source.execute("query-migrate")).phase
        return phase is Phase.NONE or phase.ended or None

    with contextlib.suppress(HypervisorError, TimeoutError):
        if _sample(await source.execute("query-migrate")).phase.startswith("postcopy"):
            return
        await source.execute("migrate_cancel")
        await until(ended, within=_SETTLE, every=_SAMPLE_INTERVAL / 10)
