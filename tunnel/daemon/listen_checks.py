"""Where a daemon would listen: whether there is room, nobody else is there, and nobody else could be."""

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
    """What is wrong with the places of unix sockets; with ``starting`` missing directories are made."""
    own = not starting and is_running(config)
    for key, path, users in _sockets(config):
        problem = weakness_of_directory(path.parent, users)  # before anything is made there
        problem = problem or _directory_problem(path.parent, make=starting) or _file_problem(path)
        if problem is None and not own and is_served(str(path)):
            problem = f"another process listens on {path}: is this daemon running already?"
        if problem is not None:
            yield key, problem


def ports(config: Config, *, starting: bool) -> Iterator[Problem]:
    """The TCP ports that cannot be had. A port that the running daemon has itself is not asked for."""
    if starting or not is_running(config):
        if starting:
            aliases.release(config)
        released = aliases.left_behind(config)  # by ``serve``, when it starts
        for key, host, port in _ports(config):
            if host in released:
                continue
            try:
                with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
                    occupy(sock, host, port, absent=key == "host.listen")
            except OSError as error:
                yield key, f"cannot listen on {host} port {port}: {reason_of(error)}"


def is_running(config: Config) -> bool:
    """Whether a daemon with this control socket runs, one of an older version, without a lock, included."""
    return holder(config.host.control) is not None or is_served(str(config.host.control))


def _sockets(config: Config) -> Iterator[tuple[str, Path, frozenset[int]]]:
    """Key and path of each, and to whom its directory may belong: whoever may use it anyway."""
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
            case TcpAddress(host, port) if host not in redirected:  # nobody listens there
                yield f"ingress[{index}].listen", host, port


def _directory_problem(directory: Path, *, make: bool) -> str | None:
    """Say why no socket can be put into ``directory``; None if one can, perhaps after making it."""
    # os.access, because Path.exists raises where a directory may not be entered.
    there = next(path for path in (directory, *directory.parents) if os.access(path, os.F_OK))
    what = "" if there == directory else f": {directory} cannot be made"
    if not there.is_dir():
        return f"{there} is not a directory"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"the directory {there} is not writable for uid {os.getuid()}{what}"
    if make:
        try:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            return f"the directory {directory} cannot be made: {error.strerror}"
        there, what = directory, ""
    try:  # a full or a read-only file system shows only here
        Path(tempfile.mkdtemp(prefix=".mtunnel-", dir=there)).rmdir()
    except OSError as error:
        return f"nothing can be made in the directory {there}: {error.strerror}{what}"
    return None


def _file_problem(path: Path) -> str | None:
    """A socket that a daemon left behind is replaced; anything else is not ours to remove."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return None
    return None if stat.S_ISSOCK(mode) else f"{path} exists and is not a socket: remove it"
