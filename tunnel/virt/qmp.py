"""QEMU's monitor: the ``qemu.qmp`` library behind the few verbs and the errors that we use."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tunnel import distribution
from tunnel.errors import HypervisorError, UnreachableError, UsageError
from tunnel.virt.polling import until

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from qemu.qmp import EventListener, QMPClient

# The library logs what it also raises. We handle what it raises.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


_LONGEST_PATH = 107

COMMAND_PATIENCE = 20.0
"""Seconds that a command of a QEMU may take that is only looked at; usually it takes milliseconds."""


class MonitorLost(HypervisorError):  # noqa: N818  "lost" is the design's word
    """The monitor's connection ended: QEMU has exited, or somebody closed it."""


class Monitor:
    """One QMP connection. ``name`` is what error messages call this QEMU.

    ``patience``: seconds that a command may take; None: as long as it takes.
    """

    def __init__(self, client: QMPClient, name: str, path: Path) -> None:
        self.patience: float | None = None
        self._client = client
        self.name = name
        self._path = path

    @classmethod
    async def connect(cls, path: Path, name: str, *, within: float = 10.0) -> Self:
        """Connect to the QMP socket at ``path``, which may still be about to appear.

        Raises HypervisorError when nobody speaks QMP there within ``within`` seconds, UsageError when the
        ``qemu.qmp`` library is not installed.
        """
        require_library()
        from qemu.qmp import ConnectError, QMPClient  # noqa: PLC0415  an optional extra

        reason: Exception | None = None

        async def connected() -> QMPClient | None:
            nonlocal reason
            client = QMPClient(name)
            try:
                await client.connect(str(path))
            except ConnectError as error:
                reason = error
                return None
            return client

        try:
            return cls(await until(connected, within=within, every=0.02), name, path)
        except TimeoutError:
            why = reason or "is another client connected? QEMU serves one at a time on each socket"
            raise HypervisorError(f"{name}: no QMP answer from {path} in {within:g} s: {why}") from reason

    @classmethod
    async def reach(cls, path: Path, name: str, *, within: float = 5.0) -> Self:
        """Connect to a QMP socket that must be there already.

        Raises UnreachableError: at once where there is no socket that we may use, after ``within`` seconds
        where nobody speaks QMP; UsageError as ``connect``. Its ``patience`` is COMMAND_PATIENCE.
        """
        if problem := _unusable(path):
            raise UnreachableError(f"{name}: no QEMU can be reached at {path}: {problem}")
        try:
            monitor = await cls.connect(path, name, within=within)
        except HypervisorError as error:
            raise UnreachableError(str(error)) from error
        monitor.patience = COMMAND_PATIENCE
        return monitor

    async def ended(self, within: float = 1.0) -> bool:
        """Whether nobody listens at the socket any more: a QEMU of this host does as long as it lives.

        For after MonitorLost, as it connects; one that is just ending has ``within`` seconds for that. Says
        nothing of a QEMU behind a relay.
        """

        async def silent() -> bool | None:
            return self._is_silent() or None

        with contextlib.suppress(TimeoutError):
            return await until(silent, within=within, every=0.02)
        return False

    def _is_silent(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)  # a unix socket connects at once, or not (EAGAIN: its backlog is full)
            try:
                probe.connect(str(self._path))
            except (ConnectionRefusedError, FileNotFoundError):
                return True
            except OSError:
                return False
        return False

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Run one QMP command and return its result.

        Raises HypervisorError with QEMU's words when it refuses, MonitorLost when the connection has ended,
        UnreachableError when ``patience`` is over.
        """
        from qemu.qmp import ExecuteError, QMPError  # noqa: PLC0415  an optional extra

        try:
            async with asyncio.timeout(self.patience):
                return await self._client.execute(command, dict(arguments) if arguments else None)
        except TimeoutError:
            raise UnreachableError(
                f"{self.name}: no answer to {command} in {self.patience:g} s: is that QEMU stopped, or"
                " does it wait for its storage?"
            ) from None
        except ExecuteError as error:
            raise HypervisorError(f"{self.name}: QEMU refused {command}: {error}") from error
        except QMPError as error:
            raise MonitorLost(f"{self.name}: QEMU's monitor closed during {command}") from error

    async def status(self) -> str:
        """QEMU's run state: ``running``, ``paused``, ``inmigrate``, ``postmigrate`` and others."""
        answer = await self.execute("query-status")
        return str(answer["status"])

    def listen(self, *events: str) -> AbstractContextManager[EventListener]:
        """A queue of the named events, from the moment of entering the context."""
        return self._client.listener(events)

    async def close(self) -> None:
        """Close the connection; how it ended before does not matter any more."""
        from qemu.qmp import QMPError  # noqa: PLC0415  an optional extra

        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._client.disconnect()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _unusable(path: Path) -> str | None:
    """Why nobody can connect at ``path``, whoever may listen there; None if one can. Connects to nothing."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISSOCK(mode):
        return "that is not a socket"
    if len(os.fsencode(path)) > _LONGEST_PATH:
        return f"the path has more than {_LONGEST_PATH} bytes, the kernel takes no more (unix(7))"
    return None if os.access(path, os.W_OK) else os.strerror(errno.EACCES)


def require_library() -> None:
    """Raise UsageError, saying how to install it, when the ``qemu.qmp`` library is missing."""
    try:
        import qemu.qmp  # noqa: F401, PLC0415  an optional extra, only looked for here
    except ImportError as error:
        raise UsageError(
            f"qemu.qmp is not installed in this environment: {distribution.install_command('qemu')}"
        ) from error
