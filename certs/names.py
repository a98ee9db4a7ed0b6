"""What a host certificate may name: DNS host names and IP addresses.

Nothing here needs ``cryptography``, so the command line can check its arguments before loading it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from tunnel.errors import UsageError

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def dns_name(text: str) -> str:
    """Return ``text`` as a lower-case DNS host name (RFC 1123 section 2.1), or raise ``UsageError``.

    Wildcards are refused: a peer is recognised by one exact name.
    """
    name = text.lower()
    labels = name.split(".")
    # The letters are checked as they were given: some beyond ASCII become ASCII in lower case.
    if not text.isascii() or len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise UsageError(
            f"{text!r} is not a DNS host name: letters, digits and inner hyphens only (no wildcard), "
            "at most 63 between two dots"
        )
    if labels[-1].isdigit():
        raise UsageError(f"{text!r} is not a DNS host name: it ends in a number (an address goes into --san)")
    return name


def ip_address(text: str) -> IpAddress | None:
    """Return ``text`` as an address, or None when it is not one."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def split_sans(sans: Iterable[str]) -> tuple[list[str], list[IpAddress]]:
    """Sort subject alternative names into DNS names and IP addresses; raise ``UsageError`` for neither."""
    dns: list[str] = []
    ips: list[IpAddress] = []
    for san in sans:
        address = ip_address(san)
        if address is None:
            dns.append(dns_name(san))
        else:
            ips.append(address)
    return dns, ips
