"""libvirt's RPC endpoints: its sockets and ports, and the URIs that connect to them.

Unrestricted access to a libvirt amounts to root on its host. Its read-only sockets allow less; like the
others, they do not carry guest memory. Sources: libvirt's daemons.html, and remote.html for transports and
ports.
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
    """Whether ``target`` is an address of libvirt, not of QEMU."""
    return _is_root_there(target) or _basename(target) in _READ_ONLY_SOCKETS


def reaches_libvirt(ingress: IngressConfig) -> bool:
    """Whether ``ingress`` gives its users unrestricted access to the peer's libvirt."""
    match ingress.listen:
        case RedirectAddress(_, first, last):
            return any(first <= port <= last for port in _TRANSPORTS.values())
    return _is_root_there(ingress.target)


def libvirt_uri(ingress: IngressConfig) -> str | None:
    """Return the URI of the libvirt that ``ingress`` leads to; None if there is none, or no URI for it."""
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
    """Return the IP address or the local socket that libvirt connects to for ``uri``.

    None for everything else: ssh, a host name (names are not resolved), the libvirt of this host.
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
    """Return ``host:port`` as in a URI, IPv6 in brackets (RFC 3986 section 3.2.2)."""
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
