"""Where libvirt's own calls go: its sockets and ports, and the URIs that lead there.

Whoever may call a libvirt without restriction is root on its host. Its read-only sockets allow less, and
carry no guest's memory either. Sources: libvirt's daemons.html, and remote.html for transports and ports.
"""

from __future__ import annotations

import posixpath
from urllib.parse import parse_qs, urlsplit

from tunnel.daemon.config import IngressConfig
from tunnel.relay.address import (
    ListenAddress,
    RedirectAddress,
    TargetAddress,
    TcpAddress,
    UnixAddress,
    parse_listen,
)

LIBVIRT_PORT = 16509
LIBVIRT_TLS_PORT = 16514

_DAEMONS = ("libvirt", "virtqemud", "virtproxyd")
_SOCKETS = frozenset(f"{daemon}-sock" for daemon in _DAEMONS)
_ADMIN_SOCKETS = frozenset(f"{daemon}-admin-sock" for daemon in _DAEMONS)
_READ_ONLY_SOCKETS = frozenset(f"{daemon}-sock-ro" for daemon in _DAEMONS)
_TRANSPORTS = {"tcp": LIBVIRT_PORT, "tls": LIBVIRT_TLS_PORT}


def is_libvirt(target: TargetAddress | None) -> bool:
    """Whether a libvirt, and no QEMU, listens at ``target``."""
    return _is_root_there(target) or _basename(target) in _READ_ONLY_SOCKETS


def reaches_libvirt(ingress: IngressConfig) -> bool:
    """Whether whoever may use ``ingress`` may call the peer's libvirt without restriction."""
    match ingress.listen:
        case RedirectAddress(_, first, last):
            return any(first <= port <= last for port in _TRANSPORTS.values())
    return _is_root_there(ingress.target)


def libvirt_uri(ingress: IngressConfig) -> str | None:
    """The URI of the libvirt that ``ingress`` leads to; None when it leads to none, or to none by a URI."""
    match ingress.listen, ingress.target:
        case UnixAddress(path), UnixAddress() as target if _basename(target) in _SOCKETS:
            return f"qemu+unix:///system?socket={path}"
        case (UnixAddress(path), TcpAddress(_, port)) if port == LIBVIRT_PORT:
            return f"qemu+unix:///system?socket={path}"
        case TcpAddress() as listen, UnixAddress() as target if _basename(target) in _SOCKETS:
            return f"qemu+tcp://{authority(listen)}/system"
        case TcpAddress() as listen, TcpAddress(_, port):
            for transport, usual in _TRANSPORTS.items():
                if port == usual:
                    return f"qemu+{transport}://{authority(listen)}/system"
    return None


def address_of(uri: str) -> ListenAddress | None:
    """Where a libvirt connects for ``uri``, an IP address or a socket of this host.

    None for everything else: ssh, a host by its name (names are not looked up), the libvirt of this host.
    """
    try:
        parts = urlsplit(uri)
        transport = parts.scheme.partition("+")[2] or ("tls" if parts.hostname else "")
        if transport == "unix":
            return parse_listen(f"unix:{parse_qs(parts.query).get('socket', [''])[0]}")
        if transport not in _TRANSPORTS or not parts.hostname:
            return None
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return parse_listen(f"tcp:{host}:{parts.port or _TRANSPORTS[transport]}")
    except ValueError:
        return None


def authority(address: TcpAddress) -> str:
    """``host:port`` as it stands in a URI, IPv6 in brackets (RFC 3986, 3.2.2)."""
    return str(address).removeprefix("tcp:")


def _is_root_there(target: TargetAddress | None) -> bool:
    match target:
        case UnixAddress():
            return _basename(target) in _SOCKETS | _ADMIN_SOCKETS
        case TcpAddress(_, port):
            return port in _TRANSPORTS.values()
    return False


def _basename(target: TargetAddress | None) -> str:
    return posixpath.basename(target.path) if isinstance(target, UnixAddress) else ""
