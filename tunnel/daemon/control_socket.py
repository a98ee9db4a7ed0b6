"""The control socket: one JSON line with a request, one JSON line with the reply.

::

    {"command": "status"}                                                  →  {"ok": true, "result": {...}}
    {"command": "probe", "peer": "hostb", "targets": ["tcp:127.0.0.1:22"]}  →  {"ok": false, "error": "..."}
    {"command": "record", "peer": "hostb", "text": "web1 has arrived"}      →  {"ok": true, "result": null}

Access to the socket is access to all commands: it is created with mode 0600.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from tunnel.daemon.instance_lock import holder
from tunnel.errors import TunnelError, UnreachableError
from tunnel.net.listener import Listener, bind_unix
from tunnel.relay.status_schema import DaemonStatus, IngressStatus, LaneStatus, LinkStatus, ProbeAnswer

__all__ = [
    "Command",
    "ControlSocket",
    "DaemonStatus",
    "IngressStatus",
    "LaneStatus",
    "LinkStatus",
    "ProbeAnswer",
    "ask",
    "ask_status",
    "ask_targets",
]

MODE = 0o600
MOST_REQUEST = 64 * 1024
TIMEOUT = 5.0

Command = Callable[..., object]
"""Takes the request's other keys as arguments; returns the result or an awaitable. Raises TunnelError."""


class ControlSocket:
    """The server of the control socket, in the daemon."""

    def __init__(self, path: Path, commands: Mapping[str, Command]) -> None:
        self._commands = commands
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = Listener(bind_unix(str(path), MODE), self._accepted)

    async def close(self) -> None:
        """Stop listening and close all connections."""
        self._listener.close()
        await asyncio.sleep(0)  # each task has started then, and closes its connection when cancelled
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accepted(self, sock: socket.socket) -> None:
        task = asyncio.create_task(self._serve(sock), name="control")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with sock:
            try:
                async with asyncio.timeout(TIMEOUT):
                    request = await _read_line(loop, sock)
                    await loop.sock_sendall(sock, json.dumps(await self._answer(request)).encode() + b"\n")
            except (OSError, TimeoutError):
                return  # the client has disconnected

    async def _answer(self, request: bytes) -> dict[str, object]:
        try:
            arguments = dict(json.loads(request))
            run = self._commands[arguments.pop("command")]
            inspect.signature(run).bind(**arguments)
        except (ValueError, TypeError, KeyError):
            known = ", ".join(map(_usage, self._commands, self._commands.values()))
            return {"ok": False, "error": f'expected one line of JSON, {{"command": one of: {known}}}'}
        try:
            result = run(**arguments)
            return {"ok": True, "result": await result if inspect.isawaitable(result) else result}
        except TunnelError as error:
            return {"ok": False, "error": str(error)}


def _usage(name: str, command: Command) -> str:
    """Return the command with the other keys that it requires."""
    wanted = ", ".join(inspect.signature(command).parameters)
    return f"{name} (with {wanted})" if wanted else name


async def _read_line(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
    line = b""
    while b"\n" not in line and len(line) <= MOST_REQUEST:
        chunk = await loop.sock_recv(sock, MOST_REQUEST)
        if not chunk:
            break
        line += chunk
    return line


def ask(path: Path, command: str, **arguments: object) -> object:
    """Send ``command`` with its ``arguments`` to the daemon at ``path``; return its result.

    Raises UnreachableError when no daemon replies, TunnelError when it reports a failure.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(TIMEOUT)
            sock.connect(str(path))
            sock.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            with sock.makefile("rb") as answers:
                line = answers.readline()
    except OSError as error:
        reason = f"{error.strerror or error}; {_hint(error, path)}"
        raise UnreachableError(f"cannot reach the daemon at {path}: {reason}") from None
    if not line.endswith(b"\n"):
        raise UnreachableError(f"the daemon at {path} closed the connection without a reply")
    try:
        answer = json.loads(line)
        result, fault = (answer["result"], None) if answer["ok"] else (None, answer["error"])
    except (ValueError, TypeError, KeyError):
        raise UnreachableError(f"invalid reply from {path}: not an mtunnel daemon") from None
    if fault is not None:
        raise TunnelError(f"the daemon at {path} reported: {fault}")
    return result


def ask_status(path: Path) -> DaemonStatus:
    """Return the status of the daemon at ``path``. Raises as ``ask``."""
    return cast("DaemonStatus", ask(path, "status"))


def ask_targets(path: Path, peer: str, targets: Sequence[str]) -> list[ProbeAnswer]:
    """Have the daemon at ``path`` ask ``peer`` whether it would accept ``targets``. Raises as ``ask``."""
    return cast("list[ProbeAnswer]", ask(path, "probe", peer=peer, targets=list(targets)))


def _hint(error: OSError, path: Path) -> str:
    if isinstance(error, PermissionError):
        return "run this as root, or as the user that the daemon runs as"
    running = holder(path)
    if running is None:
        return "is the daemon running?"
    if isinstance(error, TimeoutError):
        return f"the daemon is process {running}: is it stopped?"
    return f"the daemon is process {running}, and its socket was removed or replaced: restart it"
