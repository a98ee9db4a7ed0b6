"""The names that a host certificate may have: DNS host names and IP addresses.

Does not import ``cryptography``, so that the command line can check its arguments before loading it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from tunnel.errors import UsageError
from tunnel.names import host_name

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def dns_name(text: str) -> str:
    """Return ``text`` as a host name (``tunnel.names``). Raises ``UsageError``."""
    try:
        return host_name(text)
    except ValueError as error:
        advice = "; use --san for an address" if ip_address(text) else ""
        raise UsageError(f"{error}{advice}") from None


def ip_address(text: str) -> IpAddress | None:
    """Return ``text`` as an address, or None when it is not one."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def split_sans(sans: Iterable[str]) -> tuple[list[str], list[IpAddress]]:
    """Split subject alternative names into DNS names and IP addresses. Raises ``UsageError`` for neither."""
    dns: list[str] = []
    ips: list[IpAddress] = []
    for san in sans:
        address = ip_address(san)
        if address is None:
            dns.append(dns_name(san))
        else:
            ips.append(address)
    return dns, ips
