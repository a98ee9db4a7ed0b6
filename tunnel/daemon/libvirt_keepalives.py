"""Whether libvirt's keepalive times out before the resume window of the link that carries its connection.

libvirt closes a connection that is silent for ``keepalive_interval * (keepalive_count + 1)`` seconds. In a
peer-to-peer migration the source reads both settings from qemu.conf; the server reads them from the
configuration of its daemon. Sources: the comments in these files (libvirt, ``src/qemu/qemu.conf.in``,
``src/remote/libvirtd.conf.in``). Clients such as virsh have their own timeout (``-k``, ``-K``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunnel.daemon.config import Config, PeerConfig
from tunnel.daemon.rpc import LIBVIRT_PORT, LIBVIRT_TLS_PORT, is_libvirt, reaches_libvirt
from tunnel.files import read_regular
from tunnel.relay.address import TcpAddress, UnixAddress
from tunnel.units import format_duration
from tunnel.wire.keepalive import INTERVAL, TIMEOUT

DIRECTORY = Path("/etc/libvirt")
SILENCE = TIMEOUT + INTERVAL
"""Seconds after which a silent lane is lost, at most; the resume window starts then."""

_DEFAULT = 5  # of both keys, in every file
_CALLER = ("qemu.conf",)
_MODULAR = ("virtqemud.conf",)
_MONOLITHIC = ("libvirtd.conf", "virtproxyd.conf")  # the one that exists
_SETTING = re.compile(r"^\s*keepalive_(interval|count)\s*=\s*\"?(-?[0-9]{1,9})\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class LibvirtKeepalive:
    """The keepalive settings in ``file``, or libvirt's defaults."""

    file: Path
    interval: int = _DEFAULT
    count: int = _DEFAULT

    @classmethod
    def read(cls, file: Path) -> LibvirtKeepalive | None:
        """Return the settings of a file; None when it cannot be read."""
        try:
            found = dict(_SETTING.findall(read_regular(file).decode(errors="replace")))
        except FileNotFoundError:
            return cls(file)
        except OSError:
            return None
        return cls(file, **{key: int(value) for key, value in found.items()})

    @property
    def patience(self) -> float:
        """Seconds of silence after which libvirt closes a connection."""
        return self.interval * (self.count + 1) if self.interval > 0 else math.inf

    def count_for(self, seconds: float) -> int:
        """Return the ``keepalive_count`` that tolerates ``seconds`` of silence, whenever it starts."""
        return math.ceil(seconds / self.interval)


def warning(config: Config, directory: Path = DIRECTORY) -> str:
    """Return a warning if a libvirt of this host times out before its link does, or ""."""
    window = config.transport.resume_window
    settings = [LibvirtKeepalive.read(file) for file in _files(config, directory)]
    hasty = [each for each in settings if each is not None and each.patience < window]
    if not hasty:
        return ""
    least = min(hasty, key=lambda each: each.patience)
    files, patience = " and ".join(str(each.file) for each in hasty), format_duration(least.patience)
    return (
        f"libvirt connections go through links, and libvirt closes a connection that is silent for {patience}"
        f" (keepalive_interval * (keepalive_count + 1) in {files}), which aborts its migration, although the"
        f" link may still resume within resume_window ({format_duration(window)}). Set keepalive_count ="
        f" {least.count_for(window + SILENCE)} there, and in the peer's qemu.conf and libvirtd.conf or"
        f' virtqemud.conf (virsh: -K), or resume_window = "{patience}"'
    )


def _files(config: Config, directory: Path) -> Iterator[Path]:
    """Yield the configuration files of the libvirt clients and servers that use links."""
    if any(is_libvirt(ingress.target) or reaches_libvirt(ingress) for ingress in config.ingresses):
        yield from _chosen(_CALLER, directory)
    if any(_may_call(peer, "/run/libvirt/virtqemud-sock") for peer in config.peers):
        yield from _chosen(_MODULAR, directory)
    if any(_may_call(peer, "/run/libvirt/libvirt-sock") or _may_dial(peer) for peer in config.peers):
        yield from _chosen(_MONOLITHIC, directory)


def _chosen(names: tuple[str, ...], directory: Path) -> Iterator[Path]:
    """Yield the first file that exists, or else the first."""
    files = [directory / name for name in names]
    yield next((file for file in files if file.exists()), files[0])


def _may_call(peer: PeerConfig, path: str) -> bool:
    return any(rule.matches(UnixAddress(place)) for rule in peer.rules for place in (path, f"/var{path}"))


def _may_dial(peer: PeerConfig) -> bool:
    addresses = [TcpAddress("127.0.0.1", port) for port in (LIBVIRT_PORT, LIBVIRT_TLS_PORT)]
    return any(rule.matches(address) for rule in peer.rules for address in addresses)
