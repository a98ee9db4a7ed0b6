"""Addresses: where an ingress listens, what an egress dials, and, in ``allow_list``, what a peer may request.

===============================  ==========================================================
``redirect:127.0.1.2:100-200``   listen only: a loopback alias whose port range is redirected
``tcp:127.0.0.1:49152``          listen (loopback only) or target
``unix:/run/qemu/web1.sock``     listen or target
``tcp:127.0.0.1:100-200``        allow rule: a host and its ports (``tcp:127.0.0.1:100`` is one port)
``unix:/run/qemu/*``             allow rule: ``*`` and ``?`` stay within one path component
``hostb.example:16515``          an endpoint: where a daemon listens for its peers
``[fe80::1%eth0]:16515``         a link-local endpoint, with its interface
===============================  ==========================================================

IPv6 addresses are written in brackets: ``tcp:[::1]:49152``. Names are never resolved for a target or a rule:
the address checked against the allow list must be the address dialled. ``localhost`` is an alias of
127.0.0.1. Parsing brings every address into one canonical form, which ``str()`` returns; parsing that again
gives an equal address. An OPEN frame carries a target in this form.

All errors are ValueErrors, with a text for the operator.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from dataclasses import dataclass
from typing import TypeAlias

from tunnel.names import fault_of, folded, host_name

MAX_TARGET_BYTES = 1024
"""Maximum length of a target in an OPEN frame, in UTF-8 bytes."""

MAX_UNIX_PATH_BYTES = 107
"""``sun_path`` has 108 bytes and ends with NUL (unix(7))."""

DEFAULT_PORT = 16515
"""Port on which daemons listen for peers, unless configured otherwise."""

_HOST_PORTS = re.compile(
    r"(?:\[(?P<bracketed>[^\[\]]+)\]|(?P<bare>[^\[\]:]+))"
    r"(?::(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?)?"
)
_INTERFACE = re.compile(r"[^\s/%:\[\]]{1,15}")  # dev_valid_name, net/core/dev.c
_UNUSABLE_ALIASES = frozenset({"127.0.0.0", "127.0.0.1", "127.255.255.255"})


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """One TCP port. ``host`` is an IP address in canonical form."""

    host: str
    port: int

    def __post_init__(self) -> None:
        check_canonical(self.host, canonical_ip(self.host))
        _check_port(self.port)

    def __str__(self) -> str:
        return f"tcp:{bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A unix stream socket. ``path`` is absolute and normalised."""

    path: str

    def __post_init__(self) -> None:
        check_canonical(self.path, canonical_path(self.path))
        size = len(self.path.encode())
        _require(
            size <= MAX_UNIX_PATH_BYTES,
            f"the socket path {self.path!r} has {size} bytes, the limit is {MAX_UNIX_PATH_BYTES}:"
            " use a shorter directory",
        )

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class RedirectAddress:
    """A loopback alias and the range of its ports, inclusive, that is redirected to one listener."""

    host: str
    first_port: int
    last_port: int

    def __post_init__(self) -> None:
        check_canonical(self.host, canonical_ip(self.host))
        _check_alias(self.host)
        check_range(self.first_port, self.last_port)

    def __str__(self) -> str:
        return f"redirect:{self.host}:{ports(self.first_port, self.last_port)}"


ListenAddress: TypeAlias = TcpAddress | UnixAddress | RedirectAddress
TargetAddress: TypeAlias = TcpAddress | UnixAddress


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address on which a daemon listens for peers, or at which a peer listens.

    ``host`` is an IP address, a link-local one with its interface (RFC 4007 section 11), or a name. A name
    keeps its final dot: without it the resolver may append the search domains.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        check_canonical(self.host, _canonical_host(self.host))
        _check_port(self.port)

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port}"


def parse_listen(text: str) -> ListenAddress:
    """Parse the listen address of an ingress."""
    match text.partition(":"):
        case "redirect", _, rest:
            host, first, last = split_range(rest)
            return RedirectAddress(canonical_ip(host), first, last)
        case "tcp", _, rest:
            return _loopback(_parse_tcp(rest))
        case "unix", _, path:
            return UnixAddress(canonical_path(path))
    raise ValueError(
        f"{text!r} is not a listen address: use redirect:127.0.1.2:49152-49215,"
        " tcp:127.0.1.2:49152 or unix:/absolute/path"
    )


def parse_target(text: str) -> TargetAddress:
    """Parse the address that an egress dials, from the configuration or from an OPEN frame."""
    if len(text) > MAX_TARGET_BYTES or len(text.encode()) > MAX_TARGET_BYTES:
        raise ValueError(f"a target has at most {MAX_TARGET_BYTES} bytes")
    match text.partition(":"):
        case "tcp", _, rest:
            address = _parse_tcp(rest)
            check_dialable(address.host)
            return address
        case "unix", _, path:
            return UnixAddress(canonical_path(path))
    raise ValueError(f"{text!r} is not a target address: use tcp:127.0.0.1:49152 or unix:/absolute/path")


def parse_endpoint(text: str, default_port: int | None = None) -> Endpoint:
    """Parse ``host:port``, or ``host`` alone if there is a ``default_port``."""
    host, first, last = _split(text)
    port = default_port if first is None else first
    if port is None or last is not None:
        raise ValueError(f"{text!r} has no port: use HOST:PORT")
    return Endpoint(_canonical_host(host), port)


def parse_name(text: str) -> str:
    """Parse a host's name as in its certificate: no wildcard, no IP address. Returned in lower case."""
    return host_name(text)


def default_target(listen: ListenAddress) -> TargetAddress | None:
    """Return the default target of an ingress: the same path, or the same port on 127.0.0.1.

    None for a redirected range: there the target port is the one that each client connected to.
    """
    match listen:
        case TcpAddress():
            return TcpAddress("127.0.0.1", listen.port)
        case UnixAddress():
            return listen
        case RedirectAddress():
            return None


def _parse_tcp(rest: str) -> TcpAddress:
    host, first, last = _split(rest)
    if first is None or last is not None:
        raise ValueError(f"{rest!r} needs exactly one port: use tcp:ADDRESS:PORT")
    return TcpAddress(canonical_ip(host), first)


def split_range(text: str) -> tuple[str, int, int]:
    """Parse ``host:first-last``; ``host:port`` is a range of one port."""
    host, first, last = _split(text)
    if first is None:
        raise ValueError(f"{text!r} has no port or port range: use ADDRESS:FIRST-LAST")
    return host, first, first if last is None else last


def _split(text: str) -> tuple[str, int | None, int | None]:
    found = _HOST_PORTS.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not ADDRESS:PORT (IPv6 addresses go in brackets, as in [::1]:49152)")
    first, last = found["first"], found["last"]
    host = found["bracketed"] or found["bare"]
    return host, int(first) if first else None, int(last) if last else None


def canonical_ip(host: str) -> str:
    """Return an IP address in canonical form, without an interface."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{host!r} is not an IP address (host names are not resolved here)") from None
    if isinstance(address, ipaddress.IPv6Address):
        _require(
            address.scope_id is None,
            f"{host!r} has an interface: only host.listen and a peer's address may be link-local",
        )
        # Connecting to ::ffff:127.0.0.1 reaches 127.0.0.1, so it must be checked as 127.0.0.1.
        return str(address.ipv4_mapped or address)
    return str(address)


def _canonical_host(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return canonical_ip(host) if host == "localhost" else _absolute_or_not(host)
    if isinstance(address, ipaddress.IPv6Address) and (address.is_link_local or address.scope_id is not None):
        return _canonical_link_local(host, address)
    return canonical_ip(host)


def _absolute_or_not(host: str) -> str:
    fault = fault_of(host)
    _require(not fault, f"{host!r} is neither an IP address nor a host name: {fault}")
    return f"{folded(host)}." if host.endswith(".") else folded(host)


def _canonical_link_local(host: str, address: ipaddress.IPv6Address) -> str:
    """Require an interface: a link-local address is ambiguous without one (RFC 4007)."""
    _require(
        address.scope_id is not None,
        f"{host} is a link-local address: add its interface, as in [{host}%eth0]",
    )
    _require(address.is_link_local, f"{host!r} has an interface, but is not a link-local address")
    fit = address.scope_id is not None and _INTERFACE.fullmatch(address.scope_id)
    _require(bool(fit), f"{host!r}: {address.scope_id!r} is not an interface name")
    return str(address)


def canonical_path(path: str) -> str:
    """Remove doubled slashes and ``.``. Refuse ``..``, whose meaning depends on symbolic links."""
    _require(path.startswith("/"), f"the socket path {path!r} is not absolute")
    _require(path.isprintable(), f"the socket path {path!r} contains unprintable characters")
    _require(".." not in path.split("/"), f"the socket path {path!r} contains '..'")
    canonical = "/" + posixpath.normpath(path).lstrip("/")
    _require(canonical != "/", f"the socket path {path!r} has no file name")
    return canonical


def _loopback(address: TcpAddress) -> TcpAddress:
    """Require a loopback address: an ingress must not accept plaintext from the network."""
    _require(
        ipaddress.ip_address(address.host).is_loopback,
        f"{address.host} is not a loopback address: an ingress accepts local connections only",
    )
    return address


def check_dialable(host: str) -> None:
    """Require an IP address that a socket can connect to."""
    address = ipaddress.ip_address(host)
    _require(not address.is_unspecified, f"{host} is the unspecified address and cannot be dialled")
    without_interface = address.version == 6 and address.is_link_local
    _require(not without_interface, f"{host} is a link-local address, which cannot be a target")


def _check_alias(host: str) -> None:
    """Require a loopback alias that has no other use on this host."""
    address = ipaddress.ip_address(host)
    fit = address.version == 4 and address.is_loopback and host not in _UNUSABLE_ALIASES
    _require(fit, f"{host} cannot be a peer's alias: use another address in 127.0.0.0/8, such as 127.0.1.2")


def check_canonical(given: str, canonical: str) -> None:
    """Require that both are equal."""
    _require(given == canonical, f"{given!r} is not in canonical form, use {canonical!r}")


def check_range(first: int, last: int) -> None:
    """Require two ports in ascending order."""
    _check_port(first)
    _check_port(last)
    _require(first <= last, f"the port range {first}-{last} is empty")


def _check_port(port: int) -> None:
    _require(1 <= port <= 65535, f"{port} is not a port (1 to 65535)")


def ports(first: int, last: int) -> str:
    """Return the text of a range of ports."""
    return str(first) if first == last else f"{first}-{last}"


def bracketed(host: str) -> str:
    """Return a host as it is written before a port."""
    return f"[{host}]" if ":" in host else host


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
