"""libvirt, behind the few verbs and the errors that we use. The only module that imports the library.

Every call blocks, and some for as long as a migration takes: all are made in threads of their own (libvirt
releases the interpreter's lock meanwhile). Errors carry libvirt's own words, and what to do where that is
not in them.
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
from types import TracebackType
from typing import Any, Self, TypeVar

from tunnel import distribution
from tunnel.errors import HypervisorError, UnreachableError, UsageError
from tunnel.virt.threads import in_thread

ANSWER = 30.0
"""Seconds that an ordinary call may take; the migration itself has no limit."""

_QUESTION, _QUESTIONS = 5, 5
"""Keepalive: seconds between two questions, and the least that may stay unanswered."""

_AGAIN = 3.0  # seconds: whoever was lost is there again soon, or not

_LOST = ("client socket is closed", "End of file while reading data", "Cannot recv data", "Cannot write data")
"""How libvirt says that it lost one it talked to; the codes are those of any internal or system error."""

T = TypeVar("T")


class State(StrEnum):
    """How a guest is, as far as a migration cares."""

    ABSENT = "absent"  # not defined here
    OFF = "shut off"
    SAVED = "saved"  # shut off, with its memory in a file: its next start goes on from that
    CRASHED = "crashed"
    RUNNING = "running"
    PAUSED = "paused"
    POSTCOPY = "in post-copy"  # it has gone, its memory has not yet
    POSTCOPY_BROKEN = "broken off in post-copy"
    OTHER = "in another state"

    @property
    def gone(self) -> bool:
        """Whether there is no QEMU of it."""
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

        ``silence``: seconds in which it may say nothing and is not given up; half a minute at the least.
        Raises UsageError when libvirt-python is not installed, UnreachableError when nobody answers there,
        HypervisorError when libvirt refuses.
        """
        library = _library()
        try:
            connection = await in_thread(f"libvirt {uri}", lambda: library.open(uri), within)
        except TimeoutError:
            raise UnreachableError(f"no libvirt answers at {uri} within {within:g} s") from None
        except library.libvirtError as error:
            raise _connect_error(uri, error) from error
        with contextlib.suppress(library.libvirtError):  # a driver in this very process has no connection
            connection.setKeepAlive(*keepalive(silence))
        return cls(connection, uri, silence)

    async def again(self) -> Self:
        """Another connection to the same daemon, for when this one was lost. Raises as ``connect`` does."""
        return await self.connect(self.uri, within=_AGAIN, silence=self._silence)

    async def name(self) -> str:
        """The host's name, as libvirt gives it."""
        return str(await _call(self.uri, "getHostname", self._connection.getHostname))

    async def uuid(self) -> str | None:
        """The host's UUID (``host_uuid`` in libvirtd.conf); None where the driver has none."""
        capabilities = await _call(self.uri, "getCapabilities", self._connection.getCapabilities)
        # From the libvirt daemon that we chose to command, over a connection that it secures.
        return ET.fromstring(capabilities).findtext("host/uuid")  # noqa: S314

    async def version(self) -> tuple[int, int, int]:
        """Of libvirt there: (11, 3, 0)."""
        number = await _call(self.uri, "getLibVersion", self._connection.getLibVersion)
        return number // 1_000_000, number // 1_000 % 1_000, number % 1_000

    async def guest(self, name: str) -> LibvirtGuest | None:
        """The guest ``name``, or None when this libvirt does not know it."""
        return await self._found("lookupByName", lambda: self._connection.lookupByName(name))

    async def guest_with(self, uuid: str) -> LibvirtGuest | None:
        """The guest with this UUID, whatever its name, or None."""
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
        """The names of the guests that run here."""
        library = _library()
        active = library.VIR_CONNECT_LIST_DOMAINS_ACTIVE
        domains = await _call(self.uri, "listAllDomains", lambda: self._connection.listAllDomains(active))
        return sorted(domain.name() for domain in domains)

    async def state_of(self, name: str) -> State:
        """How the guest ``name`` is here."""
        guest = await self.guest(name)
        return State.ABSENT if guest is None else await guest.state()

    async def close(self) -> None:
        """Close the connection; how it ended before does not matter any more."""
        with contextlib.suppress(HypervisorError, UnreachableError):
            await _call(self.uri, "close", self._connection.close, within=5.0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class LibvirtGuest:
    """A guest of one host."""

    def __init__(self, domain: Any, name: str, host: LibvirtHost) -> None:
        self._domain = domain
        self.name = name
        self.host = host

    async def state(self) -> State:
        """How it is now. A guest that has just gone is ABSENT."""
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
        """Its UUID; asks nobody."""
        return str(self._domain.UUIDString())

    async def uid(self) -> int | None:
        """The uid that its QEMU runs with; None where libvirt does not set it."""
        return _qemu_uid(await self._ask("XMLDesc", self._domain.XMLDesc))

    async def migratable_xml(self) -> str:
        """Its description, as it is sent to another host. Raises HypervisorError if that cannot be."""
        flag = _library().VIR_DOMAIN_XML_MIGRATABLE
        return str(await self._ask("XMLDesc", lambda: self._domain.XMLDesc(flag)))

    async def disks(self) -> int:
        """How many disks it has, as many as can be copied at most."""
        description = ET.fromstring(await self.migratable_xml())  # noqa: S314  libvirt's own
        return len(description.findall("devices/disk"))

    async def migrate(
        self, destination: LibvirtHost | str, flags: Collection[str], parameters: Mapping[str, str | int]
    ) -> None:
        """Migrate and return when libvirt says that it is done, however long that takes.

        ``destination`` is a connection ("managed direct"), or the URI that the source's libvirt connects to
        (peer to peer). Raises HypervisorError; where the guest runs then, ``state`` tells. When cancelled,
        the migration goes on: call ``abort``.
        """
        library = _library()
        bits = functools.reduce(int.__or__, (getattr(library, f"VIR_MIGRATE_{name}") for name in flags), 0)

        def run() -> None:
            if isinstance(destination, LibvirtHost):
                self._domain.migrate3(destination._connection, dict(parameters), bits)  # noqa: SLF001  ours
            else:
                self._domain.migrateToURI3(destination, dict(parameters), bits)

        await _call(self.name, "the migration", run, within=None)

    async def job(self) -> dict[str, Any] | None:
        """The statistics of the running job, with libvirt's keys; None when there is no job."""
        stats: dict[str, Any] = await self._ask("jobStats", self._domain.jobStats)
        return stats if stats.get("type", 0) else None

    async def operation(self) -> str | None:
        """What libvirt is doing with it, such as ``migration out``; None when there is no job."""
        library = _library()
        try:
            stats = await self.job()
        except HypervisorError as error:
            if _code(error) == library.VIR_ERR_NO_SUPPORT:  # a driver that has no jobs
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
        """The statistics of the last job that ended well; empty when there was none."""
        completed = _library().VIR_DOMAIN_JOB_STATS_COMPLETED
        stats: dict[str, Any] = await self._ask("jobStats", lambda: self._domain.jobStats(completed))
        return stats if stats.get("type", 0) else {}

    @asynccontextmanager
    async def iterations(self, passed: Callable[[int], None]) -> AsyncIterator[None]:
        """Call ``passed`` with the number of each pass over the memory that begins, on our event loop."""
        library, loop = _library(), asyncio.get_running_loop()
        connection = self.host._connection  # noqa: SLF001  ours

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
        """Ask libvirt to give up the running job. Raises HypervisorError when there is none."""
        await self._ask("abortJob", self._domain.abortJob)

    async def start_postcopy(self) -> None:
        """Let the guest go over to the destination now, and its memory follow."""
        await self._ask("migrateStartPostCopy", lambda: self._domain.migrateStartPostCopy(0))

    async def suspend(self) -> None:
        """Hold the guest. One that is held while it migrates runs again at the destination."""
        await self._ask("suspend", self._domain.suspend)

    async def _ask(self, what: str, call: Callable[[], T]) -> T:
        return await _call(self.name, what, call)


def keepalive(silence: float) -> tuple[int, int]:
    """What libvirt is to be told so that it waits ``silence`` seconds: an interval, and a count of questions.

    It gives up after one interval more than the questions take (virConnectSetKeepAlive).
    """
    return _QUESTION, max(_QUESTIONS, math.ceil(silence / _QUESTION))


def require_library() -> None:
    """Raise UsageError, saying how to install it, when libvirt-python is missing."""
    _library()


@functools.cache
def _library() -> Any:
    """The library, with its event loop running: without one there is no keepalive."""
    try:
        import libvirt  # noqa: PLC0415  an optional extra; absolute, so this is not this module
    except ImportError as error:
        raise UsageError(
            f"libvirt-python is not installed in this environment: {distribution.install_command('libvirt')}"
        ) from error
    libvirt.registerErrorHandler(_ignore, None)  # it writes to stderr what it also raises
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_turn, args=(libvirt,), name="libvirt events", daemon=True).start()
    return libvirt


def _turn(library: Any) -> None:
    while library.virEventRunDefaultImpl() == 0:
        pass


def _ignore(_context: object, _error: object) -> None:
    """An error handler that leaves errors to whoever catches them."""


async def _call(who: str, what: str, call: Callable[[], T], within: float | None = ANSWER) -> T:
    library = _library()
    try:
        return await in_thread(f"libvirt {what}", call, within)
    except TimeoutError:
        raise UnreachableError(f"{who}: libvirt did not answer {what} within {within:g} s") from None
    except library.libvirtError as error:
        raise HypervisorError(f"{who}: {_words(library, error)}") from error


def _code(error: BaseException) -> int | None:
    """The library's code of the error that caused ours."""
    cause = error.__cause__
    return cause.get_error_code() if isinstance(cause, _library().libvirtError) else None


def _words(library: Any, error: Any) -> str:
    """The library's own words, and what to do."""
    words = str(error.get_error_message() or error)
    outsider = "run this as a user whom libvirt lets in: root, or one of the group libvirt"
    hints = {
        library.VIR_ERR_MIGRATE_UNSAFE: "a disk is cached by its host, or not shared: use --copy-storage",
        library.VIR_ERR_AUTH_FAILED: outsider,
        library.VIR_ERR_AUTH_UNAVAILABLE: outsider,
    }
    hint = hints.get(error.get_error_code())
    if "Postcopy is not supported" in words:  # QEMU's words; the code is that of any internal error
        hint = "the destination's QEMU may not use userfaultfd: set sysctl vm.unprivileged_userfaultfd=1"
    if any(lost in words for lost in _LOST):
        hint = "a connection to a libvirt was lost: that libvirt has ended, or the way to it"
    if "VIR_MIGRATE_TLS" in words:  # the flag's name; the code is that of any invalid operation
        hint = (
            "qemu.conf insists on QEMU's own TLS: give --tls-destination NAME, or set migrate_tls_force = 0"
        )
    return f"{words} ({hint})" if hint else words


def _connect_error(uri: str, error: Any) -> HypervisorError | UnreachableError:
    library = _library()
    words = _words(library, error)
    nobody = {library.VIR_ERR_SYSTEM_ERROR, library.VIR_ERR_RPC, library.VIR_ERR_NO_CONNECT}
    if error.get_error_code() in nobody:
        return UnreachableError(f"no libvirt answers at {uri}: {words}")
    return HypervisorError(f"libvirt at {uri} cannot be used: {words}")


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
    """The uid in a guest's DAC label, ``+uid:+gid`` or names (libvirt's formatdomain, "Security label")."""
    # From the libvirt daemon that we chose to command, over a connection that it secures.
    label = ET.fromstring(description).findtext("seclabel[@model='dac']/label")  # noqa: S314
    user = (label or "").partition(":")[0].removeprefix("+")
    with contextlib.suppress(KeyError):
        return int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    return None
