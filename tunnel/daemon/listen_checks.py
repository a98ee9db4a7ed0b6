"""Checks of the listen addresses: that they can be created, are free, and cannot be taken by other users."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tunnel.daemon import aliases
from tunnel.daemon.config import Config
from tunnel.daemon.config_errors import Problem
from tunnel.daemon.instance_lock import holder
from tunnel.host.permissions import weakness_of_directory
from tunnel.net.listener import is_served, occupy
from tunnel.net.sockets import reason_of
from tunnel.relay.address import RedirectAddress, TcpAddress, UnixAddress


def sockets(config: Config, *, starting: bool) -> Iterator[Problem]:
    """Yield the problems of unix socket paths; with ``starting`` missing directories are created."""
    own = not starting and is_running(config)
    for key, path, users in _sockets(config):
        problem = weakness_of_directory(path.parent, users)  # before anything is created there
        problem = problem or _directory_problem(path.parent, make=starting) or _file_problem(path)
        if problem is None and not own and is_served(str(path)):
            problem = f"another process is listening on {path}: is this daemon already running?"
        if problem is not None:
            yield key, problem


def ports(config: Config, *, starting: bool) -> Iterator[Problem]:
    """Yield the TCP ports that are not available. Ports of this daemon, if it is running, are not checked."""
    if starting or not is_running(config):
        if starting:
            aliases.release(config)
        released = aliases.left_behind(config)  # ``serve`` releases them when it starts
        for key, host, port in _ports(config):
            if host in released:
                continue
            try:
                with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
                    occupy(sock, host, port, absent=key == "host.listen")
            except OSError as error:
                yield key, f"cannot listen on {host} port {port}: {reason_of(error)}"


def is_running(config: Config) -> bool:
    """Whether a daemon with this control socket is running, including older versions without a lock."""
    return holder(config.host.control) is not None or is_served(str(config.host.control))


def _sockets(config: Config) -> Iterator[tuple[str, Path, frozenset[int]]]:
    """Yield key and path of each, and the permitted owners of its directory: the allowed users."""
    yield "host.control", config.host.control, frozenset()
    for index, ingress in enumerate(config.ingresses):
        if isinstance(ingress.listen, UnixAddress):
            yield f"ingress[{index}].listen", Path(ingress.listen.path), ingress.uids


def _ports(config: Config) -> Iterator[tuple[str, str, int]]:
    yield "host.listen", config.host.listen.host, config.host.listen.port
    if config.host.metrics is not None:
        yield "host.metrics", config.host.metrics.host, config.host.metrics.port
    redirected = {each.listen.host for each in config.ingresses if isinstance(each.listen, RedirectAddress)}
    for index, ingress in enumerate(config.ingresses):
        match ingress.listen:
            case TcpAddress(host, port) if host not in redirected:  # no listener is bound there
                yield f"ingress[{index}].listen", host, port


def _directory_problem(directory: Path, *, make: bool) -> str | None:
    """Return why no socket can be created in ``directory``, else None; ``make`` creates the directory."""
    # os.access, because Path.exists raises when a parent directory is not searchable.
    there = next(path for path in (directory, *directory.parents) if os.access(path, os.F_OK))
    what = "" if there == directory else f": cannot create {directory}"
    if not there.is_dir():
        return f"{there} is not a directory"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"the directory {there} is not writable for uid {os.getuid()}{what}"
    if make:
        try:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            return f"cannot create the directory {directory}: {error.strerror}"
        there, what = directory, ""
    try:  # detects a full or a read-only file system
        Path(tempfile.mkdtemp(prefix=".mtunnel-", dir=there)).rmdir()
    except OSError as error:
        return f"cannot create files in the directory {there}: {error.strerror}{what}"
    return None


def _file_problem(path: Path) -> str | None:
    """Return a problem if ``path`` exists and is not a socket: only stale sockets are replaced."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return None
    return None if stat.S_ISSOCK(mode) else f"{path} exists and is not a socket: remove it"
