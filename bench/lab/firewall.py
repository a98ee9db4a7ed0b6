"""A host's firewall: closed but for named TCP ports, and it counts whom it sent away.

It is a table of its own, ``inet lab_firewall``: other tables in the host, mtunnel's too, are not touched.
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
    """The firewall of one host. ``nft`` runs the program with options and an input; it returns the output."""

    def __init__(self, nft: Callable[[Sequence[str], str], str]) -> None:
        self._nft = nft

    def close(self, *, but: tuple[Ports, ...] = (), reject: bool = False) -> None:
        """Let nothing in but TCP to the ports ``but``, loopback, ICMP and what belongs to open connections.

        Whoever comes to another port hears nothing, or, with ``reject``, is told so. Counters start at zero.
        """
        self._do(ruleset(but, reject=reject))

    def open(self, *ports: Ports) -> None:
        """Let TCP to these ports in as well."""
        self._do(f"add element inet {TABLE} open {_elements(ports)}")

    def shut(self, *ports: Ports) -> None:
        """Take these ports back; open connections stay. They must have been opened in just this form."""
        self._do(f"delete element inet {TABLE} open {_elements(ports)}")

    def cut(self) -> None:
        """Drop everything from other hosts from now on, open connections too: as if a wire was cut."""
        self._do(f"insert rule inet {TABLE} input iif != lo drop")

    def remove(self) -> None:
        """Take the firewall away: everything is let in."""
        self._do(_absent())

    def opened(self) -> list[Ports]:
        """The ports that are let in."""
        found = self._elements_of("open")
        return [port if isinstance(port, int) else "{}-{}".format(*port["range"]) for port in found]

    def refused(self) -> dict[int, int]:
        """How many packets that would open a connection were sent away, by destination port."""
        counted = (entry["elem"] for entry in self._elements_of("refused"))
        return {int(entry["val"]): int(entry["counter"]["packets"]) for entry in counted}

    def _elements_of(self, name: str) -> list[Any]:
        listed = json.loads(self._nft(["--json", "list", "set", "inet", TABLE, name], ""))
        (found,) = (entry["set"] for entry in listed["nftables"] if "set" in entry)
        return list(found.get("elem", []))

    def _do(self, script: str) -> None:
        self._nft(["--file", "-"], script)


def ruleset(ports: tuple[Ports, ...], *, reject: bool) -> str:
    """The whole table, replacing the one that may be there. Raises LabError when a port is none."""
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
    # Deleting fails when there is none; adding never does.
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
