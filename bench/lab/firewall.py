"""A host's firewall: closed except for given TCP ports, with counters of refused connections.

It is the nftables table ``inet lab_firewall``: other tables in the host, such as mtunnel's, are not touched.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from tunnel.bench.lab.waiting import LabError

TABLE = "lab_firewall"

Ports = int | str
"""A port, or a range written ``49152-49215``."""

_HIGHEST = 65535


class Firewall:
    """The firewall of one host. ``nft`` runs nft(8) with options and an input, and returns its output."""

    def __init__(self, nft: Callable[[Sequence[str], str], str]) -> None:
        self._nft = nft

    def close(self, *, but: tuple[Ports, ...] = (), reject: bool = False) -> None:
        """Accept only TCP to the ports ``but``, loopback, ICMP and packets of open connections.

        Packets to other ports are dropped, or, with ``reject``, answered with RST. Counters start at zero.
        """
        self._do(ruleset(but, reject=reject))

    def open(self, *ports: Ports) -> None:
        """Accept TCP to these ports as well."""
        self._do(f"add element inet {TABLE} open {_elements(ports)}")

    def shut(self, *ports: Ports) -> None:
        """Close these ports; open connections stay. They must have been opened in the same form."""
        self._do(f"delete element inet {TABLE} open {_elements(ports)}")

    def cut(self) -> None:
        """Drop everything from other hosts from now on, also of open connections: like a cut cable."""
        self._do(f"insert rule inet {TABLE} input iif != lo drop")

    def remove(self) -> None:
        """Remove the firewall: everything is accepted."""
        self._do(_absent())

    def opened(self) -> list[Ports]:
        """Return the open ports."""
        found = self._elements_of("open")
        return [port if isinstance(port, int) else "{}-{}".format(*port["range"]) for port in found]

    def refused(self) -> dict[int, int]:
        """Return how many SYN packets were refused, by destination port."""
        counted = (entry["elem"] for entry in self._elements_of("refused"))
        return {int(entry["val"]): int(entry["counter"]["packets"]) for entry in counted}

    def _elements_of(self, name: str) -> list[Any]:
        listed = json.loads(self._nft(["--json", "list", "set", "inet", TABLE, name], ""))
        (found,) = (entry["set"] for entry in listed["nftables"] if "set" in entry)
        return list(found.get("elem", []))

    def _do(self, script: str) -> None:
        self._nft(["--file", "-"], script)


def ruleset(ports: tuple[Ports, ...], *, reject: bool) -> str:
    """Return the table, replacing an existing one. Raises LabError when a port is invalid."""
    elements = f"elements = {_elements(ports)}" if ports else ""
    verdict = "reject with tcp reset" if reject else "drop"
    return f"""\
{_absent()}
table inet {TABLE} {{
  set open {{ type inet_service; flags interval; {elements} }}
  set refused {{ type inet_service; flags dynamic; counter; size 65535; }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iif lo accept
    ct state established,related accept
    meta l4proto {{ icmp, ipv6-icmp }} accept
    tcp dport @open accept
    tcp flags & (syn | ack) == syn update @refused {{ tcp dport }}
    meta l4proto tcp {verdict}
  }}
}}
"""


def _absent() -> str:
    # Deleting fails when the table does not exist; adding never does.
    return f"add table inet {TABLE}\ndelete table inet {TABLE}"


def _elements(ports: tuple[Ports, ...]) -> str:
    return "{ " + ", ".join(_checked(port) for port in ports) + " }"


def _checked(ports: Ports) -> str:
    ends = str(ports).split("-")
    numbers = [int(end) for end in ends if end.isascii() and end.isdigit()]
    sound = len(numbers) == len(ends) <= 2 and all(0 < number <= _HIGHEST for number in numbers)
    if not sound or numbers != sorted(numbers):
        raise LabError(f"{ports!r} is not a TCP port or a range like 49152-49215")
    return "-".join(map(str, numbers))
