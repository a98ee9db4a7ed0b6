"""An asyncio wrapper of libvirt-python. The only module that imports the library.

All calls block, some for as long as a migration takes, so each runs in a separate thread (libvirt-python
releases the GIL meanwhile). Errors carry libvirt's error text, and a hint where that gives none.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import pwd
import threading
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any, Self, TypeVar

from tunnel import distribution
from tunnel.errors import HypervisorError, UnreachableError, UsageError
from tunnel.virt.threads import in_thread

ANSWER = 30.0
"""Timeout of an ordinary call in seconds; the migration itself has none."""

_QUESTION, _QUESTIONS = 5, 5
"""Keepalive: interval in seconds, and the minimum number of unanswered probes."""

_AGAIN = 3.0  # seconds to reconnect

_LOST = ("client socket is closed", "End of file while reading data", "Cannot recv data", "Cannot write data")
"""Error texts of a lost connection; libvirt's codes for these are generic internal or system errors."""

T = TypeVar("T")


class State(StrEnum):
    """The state of a guest, as relevant to a migration."""

    ABSENT = "absent"  # not defined here
    OFF = "shut off"
    SAVED = "saved"  # shut off, memory saved to a file, restored at the next start
    CRASHED = "crashed"
    RUNNING = "running"
    PAUSED = "paused"
    POSTCOPY = "in post-copy"  # switched to the destination, memory still being sent
    POSTCOPY_BROKEN = "in failed post-copy"
    OTHER = "in another state"

    @property
    def gone(self) -> bool:
        """Whether the guest has no QEMU process."""
        return self in {State.ABSENT, State.OFF, State.SAVED, State.CRASHED}


class LibvirtHost:
    """A connection to one libvirt daemon. Use as an async context manager, or call ``close()``."""

    def __init__(self, connection: Any, uri: str, silence: float = 0.0) -> None:
        self._connection = connection
        self._silence = silence
        self.uri = uri

    @classmethod
    async def connect(cls, uri: str, *, within: float = ANSWER, silence: float = 0.0) -> Self:
        """Connect to the libvirt at ``uri``.

        ``silence``: seconds without traffic before keepalive closes the connection; at least 30.
        Raises UsageError when libvirt-python is not installed, UnreachableError when the connection fails,
        HypervisorError when libvirt refuses it.
        """
        library = _library()
        try:
            connection = await in_thread(f"libvirt {uri}", lambda: library.open(uri), within)
        except TimeoutError:
            raise UnreachableError(f"timed out after {within:g} s connecting to libvirt at {uri}") from None
        except library.libvirtError as error:
            raise _connect_error(uri, error) from error
        with contextlib.suppress(library.libvirtError):  # in-process drivers have no connection
            connection.setKeepAlive(*keepalive(silence))
        return cls(connection, uri, silence)

    async def again(self) -> Self:
        """Return a new connection to the same daemon, after this one was lost. Raises as ``connect`` does."""
        return await self.connect(self.uri, within=_AGAIN, silence=self._silence)

    async def name(self) -> str:
        """Return the host's name as reported by libvirt."""
        return str(await _call(self.uri, "getHostname", self._connection.getHostname))

    async def uuid(self) -> str | None:
        """Return the host's UUID (``host_uuid`` in libvirtd.conf); None if the driver has none."""
        capabilities = await _call(self.uri, "getCapabilities", self._connection.getCapabilities)
        # From a trusted libvirt daemon, over a connection that it secures.
        return ET.fromstring(capabilities).findtext("host/uuid")  # noqa: S314

    async def version(self) -> tuple[int, int, int]:
        """Return the version of the remote libvirt, such as (11, 3, 0)."""
        number = await _call(self.uri, "getLibVersion", self._connection.getLibVersion)
        return number // 1_000_000, number // 1_000 % 1_000, number % 1_000

    async def guest(self, name: str) -> LibvirtGuest | None:
        """Return the guest ``name``, or None when it does not exist."""
        return await self._found("lookupByName", lambda: self._connection.lookupByName(name))

    async def guest_with(self, uuid: str) -> LibvirtGuest | None:
        """Return the guest with this UUID, whatever its name, or None."""
        return await self._found("lookupByUUID", lambda: self._connection.lookupByUUIDString(uuid))

    async def _found(self, what: str, look_up: Callable[[], Any]) -> LibvirtGuest | None:
        try:
            domain = await _call(self.uri, what, look_up)
        except HypervisorError as error:
            if _code(error) == _library().VIR_ERR_NO_DOMAIN:
                return None
            raise
        return LibvirtGuest(domain, domain.name(), self)

    async def running(self) -> list[str]:
        """Return the names of the active guests."""
        library = _library()
        active = library.VIR_CONNECT_LIST_DOMAINS_ACTIVE
        domains = await _call(self.uri, "listAllDomains", lambda: self._connection.listAllDomains(active))
        return sorted(domain.name() for domain in domains)

    async def state_of(self, name: str) -> State:
        """Return the state of the guest ``name``."""
        guest = await self.guest(name)
        return State.ABSENT if guest is None else await guest.state()

    async def close(self) -> None:
        """Close the connection, ignoring errors."""
        with contextlib.suppress(HypervisorError, UnreachableError):
            await _call(self.uri, "close", self._connection.close, within=5.0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class LibvirtGuest:
    """A guest of one libvirt host."""

    def __init__(self, domain: Any, name: str, host: LibvirtHost) -> None:
        self._domain = domain
        self.name = name
        self.host = host

    async def state(self) -> State:
        """Return its current state; ABSENT if it no longer exists."""
        library = _library()
        try:
            found = _state(library, *await self._ask("state", self._domain.state))
            if found is State.OFF and await self._ask(
                "hasManagedSaveImage", self._domain.hasManagedSaveImage
            ):
                return State.SAVED
        except HypervisorError as error:
            if _code(error) == library.VIR_ERR_NO_DOMAIN:
                return State.ABSENT
            raise
        return found

    @property
    def uuid(self) -> str:
        """Its UUID, without a call to libvirt."""
        return str(self._domain.UUIDString())

    async def uid(self) -> int | None:
        """Return the uid of its QEMU; None if libvirt does not set it."""
        return _qemu_uid(await self._ask("XMLDesc", self._domain.XMLDesc))

    async def migratable_xml(self) -> str:
        """Return its migratable XML. Raises HypervisorError if there is none."""
        flag = _library().VIR_DOMAIN_XML_MIGRATABLE
        return str(await self._ask("XMLDesc", lambda: self._domain.XMLDesc(flag)))

    async def disks(self) -> int:
        """Return the number of its disks, the maximum that can be copied."""
        description = ET.fromstring(await self.migratable_xml())  # noqa: S314  libvirt's own
        return len(description.findall("devices/disk"))

    async def migrate(
        self, destination: LibvirtHost | str, flags: Collection[str], parameters: Mapping[str, str | int]
    ) -> None:
        """Migrate and return when libvirt reports completion, without a timeout.

        ``destination`` is a connection ("managed direct"), or the URI that the source's libvirt connects to
        (peer to peer). Raises HypervisorError; check ``state`` for the guest's location then. When cancelled,
        the migration continues: call ``abort``.
        """
        library = _library()
        bits = functools.reduce(int.__or__, (getattr(library, f"VIR_MIGRATE_{name}") for name in flags), 0)

        def run() -> None:
            if isinstance(destination, LibvirtHost):
                self._domain.migrate3(destination._connection, dict(parameters), bits)  # noqa: SLF001  this module's
            else:
                self._domain.migrateToURI3(destination, dict(parameters), bits)

        await _call(self.name, "the migration", run, within=None)

    async def job(self) -> dict[str, Any] | None:
        """Return the statistics of the running job, with libvirt's keys; None when there is no job."""
        stats: dict[str, Any] = await self._ask("jobStats", self._domain.jobStats)
        return stats if stats.get("type", 0) else None

    async def operation(self) -> str | None:
        """Return the operation of the running job, such as ``migration out``; None when there is no job."""
        library = _library()
        try:
            stats = await self.job()
        except HypervisorError as error:
            if _code(error) == library.VIR_ERR_NO_SUPPORT:  # the driver has no jobs
                return None
            raise
        if stats is None:
            return None
        prefix, number = "VIR_DOMAIN_JOB_OPERATION_", stats.get("operation")
        names = (
            name for name in dir(library) if name.startswith(prefix) and getattr(library, name) == number
        )
        return next(names, f"{prefix}UNKNOWN").removeprefix(prefix).lower().replace("_", " ")

    async def completed_job(self) -> dict[str, Any]:
        """Return the statistics of the last successful job; empty when there was none."""
        completed = _library().VIR_DOMAIN_JOB_STATS_COMPLETED
        stats: dict[str, Any] = await self._ask("jobStats", lambda: self._domain.jobStats(completed))
        return stats if stats.get("type", 0) else {}

    @asynccontextmanager
    async def iterations(self, passed: Callable[[int], None]) -> AsyncIterator[None]:
        """Call ``passed`` on the event loop with the number of each pass over the memory, as it begins."""
        library, loop = _library(), asyncio.get_running_loop()
        connection = self.host._connection  # noqa: SLF001  this module's

        def announce(_connection: object, _domain: object, number: int, _opaque: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(passed, number)

        event = library.VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION
        number = await self._ask(
            "events", lambda: connection.domainEventRegisterAny(self._domain, event, announce, None)
        )
        try:
            yield
        finally:
            with contextlib.suppress(HypervisorError, UnreachableError):
                await self._ask("events", lambda: connection.domainEventDeregisterAny(number))

    async def abort(self) -> None:
        """Abort the running job. Raises HypervisorError when there is none."""
        await self._ask("abortJob", self._domain.abortJob)

    async def start_postcopy(self) -> None:
        """Switch the running migration to post-copy."""
        await self._ask("migrateStartPostCopy", lambda: self._domain.migrateStartPostCopy(0))

    async def suspend(self) -> None:
        """Pause the guest. If paused during a migration, it is resumed at the destination."""
        await self._ask("suspend", self._domain.suspend)

    async def _ask(self, what: str, call: Callable[[], T]) -> T:
        return await _call(self.name, what, call)


def keepalive(silence: float) -> tuple[int, int]:
    """Return the keepalive interval and count with which libvirt tolerates ``silence`` seconds.

    libvirt closes the connection one interval after the last probe (virConnectSetKeepAlive).
    """
    return _QUESTION, max(_QUESTIONS, math.ceil(silence / _QUESTION))


def require_library() -> None:
    """Raise UsageError, with install instructions, when libvirt-python is missing."""
    _library()


@functools.cache
def _library() -> Any:
    """Import the library and start its event loop, which keepalive requires."""
    try:
        import libvirt  # noqa: PLC0415  an optional extra; absolute, so this is not this module
    except ImportError as error:
        raise UsageError(
            f"libvirt-python is not installed in this environment: {distribution.install_command('libvirt')}"
        ) from error
    libvirt.registerErrorHandler(_ignore, None)  # by default errors are also written to stderr
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_turn, args=(libvirt,), name="libvirt events", daemon=True).start()
    return libvirt


def _turn(library: Any) -> None:
    while library.virEventRunDefaultImpl() == 0:
        pass


def _ignore(_context: object, _error: object) -> None:
    """An error handler that discards errors, which are also raised as exceptions."""


async def _call(who: str, what: str, call: Callable[[], T], within: float | None = ANSWER) -> T:
    library = _library()
    try:
        return await in_thread(f"libvirt {what}", call, within)
    except TimeoutError:
        raise UnreachableError(f"{who}: timed out after {within:g} s waiting for libvirt ({what})") from None
    except library.libvirtError as error:
        raise HypervisorError(f"{who}: {_words(library, error)}") from error


def _code(error: BaseException) -> int | None:
    """Return libvirt's code of the error that caused this one."""
    cause = error.__cause__
    return cause.get_error_code() if isinstance(cause, _library().libvirtError) else None


def _words(library: Any, error: Any) -> str:
    """Return libvirt's error text, with a hint if there is one."""
    words = str(error.get_error_message() or error)
    outsider = "run this as a user that libvirt accepts: root, or a member of group libvirt"
    hints = {
        library.VIR_ERR_MIGRATE_UNSAFE: "a disk uses the host's cache, or is not shared: use --copy-storage",
        library.VIR_ERR_AUTH_FAILED: outsider,
        library.VIR_ERR_AUTH_UNAVAILABLE: outsider,
    }
    hint = hints.get(error.get_error_code())
    if "Postcopy is not supported" in words:  # QEMU's text; the code is that of any internal error
        hint = "the destination's QEMU may not use userfaultfd: set sysctl vm.unprivileged_userfaultfd=1"
    if any(lost in words for lost in _LOST):
        hint = "a connection to libvirt was lost: libvirtd or the network failed"
    if "VIR_MIGRATE_TLS" in words:  # the flag's name; the code is that of any invalid operation
        hint = (
            "qemu.conf requires QEMU's native TLS: use --tls-destination NAME, or set migrate_tls_force = 0"
        )
    return f"{words} ({hint})" if hint else words


def _connect_error(uri: str, error: Any) -> HypervisorError | UnreachableError:
    library = _library()
    words = _words(library, error)
    unreachable = {library.VIR_ERR_SYSTEM_ERROR, library.VIR_ERR_RPC, library.VIR_ERR_NO_CONNECT}
    if error.get_error_code() in unreachable:
        return UnreachableError(f"cannot connect to libvirt at {uri}: {words}")
    return HypervisorError(f"cannot use libvirt at {uri}: {words}")


def _state(library: Any, state: int, reason: int) -> State:
    if state == library.VIR_DOMAIN_RUNNING:
        broken = reason == library.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED
        return State.POSTCOPY_BROKEN if broken else State.RUNNING
    if state == library.VIR_DOMAIN_PAUSED:
        special = {
            library.VIR_DOMAIN_PAUSED_POSTCOPY: State.POSTCOPY,
            library.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED: State.POSTCOPY_BROKEN,
        }
        return special.get(reason, State.PAUSED)
    if state == library.VIR_DOMAIN_SHUTOFF and reason == library.VIR_DOMAIN_SHUTOFF_SAVED:
        return State.SAVED
    if state in {library.VIR_DOMAIN_SHUTOFF, library.VIR_DOMAIN_SHUTDOWN}:
        return State.OFF
    return State.CRASHED if state == library.VIR_DOMAIN_CRASHED else State.OTHER


def _qemu_uid(description: str) -> int | None:
    """Return the uid in a guest's DAC label, ``+uid:+gid`` or names (formatdomain, "Security label")."""
    # From a trusted libvirt daemon, over a connection that it secures.
    label = ET.fromstring(description).findtext("seclabel[@model='dac']/label")  # noqa: S314
    user = (label or "").partition(":")[0].removeprefix("+")
    with contextlib.suppress(KeyError):
        return int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    return None
