"""QEMU's monitor: a wrapper of the ``qemu.qmp`` library."""

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
from typing import TYPE_CHECKING, Any, Self

from tunnel import distribution
from tunnel.errors import HypervisorError, UnreachableError, UsageError
from tunnel.virt.polling import until

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from qemu.qmp import EventListener, QMPClient

# The library logs errors that it also raises.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


_LONGEST_PATH = 107

COMMAND_PATIENCE = 20.0
"""Timeout in seconds of a command to a QEMU that is not migrating; usually it takes milliseconds."""


class MonitorLost(HypervisorError):  # noqa: N818  a lost connection
    """The monitor connection was closed: QEMU has exited, or either side closed it."""


class Monitor:
    """One QMP connection. ``name`` identifies this QEMU in error messages.

    ``patience``: the timeout of a command in seconds; None: no limit.
    """

    def __init__(self, client: QMPClient, name: str, path: Path) -> None:
        self.patience: float | None = None
        self._client = client
        self.name = name
        self._path = path

    @classmethod
    async def connect(cls, path: Path, name: str, *, within: float = 10.0) -> Self:
        """Connect to the QMP socket at ``path``, which need not exist yet.

        Raises HypervisorError when there is no QMP greeting within ``within`` seconds, UsageError when the
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
            why = reason or "is another client connected? QEMU serves one client per socket"
            raise HypervisorError(
                f"{name}: timed out after {within:g} s waiting for QMP at {path}: {why}"
            ) from reason

    @classmethod
    async def reach(cls, path: Path, name: str, *, within: float = 5.0) -> Self:
        """Connect to an existing QMP socket, with a ``patience`` of COMMAND_PATIENCE.

        Raises UnreachableError immediately when there is no accessible socket, and after ``within`` seconds
        without a QMP greeting; UsageError as ``connect``.
        """
        if problem := _unusable(path):
            raise UnreachableError(f"{name}: cannot connect to QEMU at {path}: {problem}")
        try:
            monitor = await cls.connect(path, name, within=within)
        except HypervisorError as error:
            raise UnreachableError(str(error)) from error
        monitor.patience = COMMAND_PATIENCE
        return monitor

    async def ended(self, within: float = 1.0) -> bool:
        """Return whether the socket has no listener any more: a local QEMU listens until it exits.

        Connects, so call it only after MonitorLost; a QEMU that is exiting has ``within`` seconds. Not valid
        for a QEMU behind a relay.
        """
        with contextlib.suppress(TimeoutError):
            return bool(await until(self._is_silent, within=within))
        return False

    def _is_silent(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)  # a unix socket connects or fails immediately (EAGAIN: backlog full)
            try:
                probe.connect(str(self._path))
            except (ConnectionRefusedError, FileNotFoundError):
                return True
            except OSError:
                return False
        return False

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Run one QMP command and return its result.

        Raises HypervisorError with QEMU's error text when it refuses, MonitorLost when the connection was
        closed, UnreachableError after ``patience``.
        """
        from qemu.qmp import ExecuteError, QMPError  # noqa: PLC0415  an optional extra

        try:
            async with asyncio.timeout(self.patience):
                return await self._client.execute(command, dict(arguments) if arguments else None)
        except TimeoutError:
            raise UnreachableError(
                f"{self.name}: timed out after {self.patience:g} s waiting for a reply to {command}: is QEMU"
                " stopped, or blocked on storage?"
            ) from None
        except ExecuteError as error:
            raise HypervisorError(f"{self.name}: QEMU refused {command}: {error}") from error
        except QMPError as error:
            raise MonitorLost(f"{self.name}: QEMU's monitor closed during {command}") from error

    async def status(self) -> str:
        """Return QEMU's run state: ``running``, ``paused``, ``inmigrate``, ``postmigrate`` and others."""
        answer = await self.execute("query-status")
        return str(answer["status"])

    def listen(self, *events: str) -> AbstractContextManager[EventListener]:
        """Return a context manager that queues the named events from its entry on."""
        return self._client.listener(events)

    async def close(self) -> None:
        """Close the connection, ignoring errors."""
        from qemu.qmp import QMPError  # noqa: PLC0415  an optional extra

        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._client.disconnect()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _unusable(path: Path) -> str | None:
    """Return why ``path`` is not a usable socket, or None. Does not connect."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISSOCK(mode):
        return "not a socket"
    if len(os.fsencode(path)) > _LONGEST_PATH:
        return f"the path has more than {_LONGEST_PATH} bytes, the limit of unix(7)"
    return None if os.access(path, os.W_OK) else os.strerror(errno.EACCES)


def require_library() -> None:
    """Raise UsageError, with install instructions, when the ``qemu.qmp`` library is missing."""
    try:
        import qemu.qmp  # noqa: F401, PLC0415  an optional extra, only checked here
    except ImportError as error:
        raise UsageError(
            f"qemu.qmp is not installed in this environment: {distribution.install_command('qemu')}"
        ) from error
