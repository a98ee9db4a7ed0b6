"""The two hosts on paper: names, addresses, and where their files are below the lab's directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PORT = 16515
"""mtunnel's one port, which the firewalls leave open."""

DOMAIN = "lab"


@dataclass(frozen=True, slots=True)
class LabHostPlan:
    """One host. ``address`` is on its first interface (eth0), ``second_address`` on its second (eth1).

    ``directory`` is the host's part of the lab's directory. Of what the host sees, ``/run``, ``/etc``,
    ``/var/lib/libvirt``, ``/var/cache/libvirt`` and ``/var/log/libvirt`` are its own; they can be reached
    from outside the host below ``directory``. All else is the machine's, the lab's directory included.
    """

    letter: str
    name: str
    address: str
    second_address: str
    address6: str
    uuid: str
    directory: Path

    @property
    def fqdn(self) -> str:
        """The host's full name, which is also its hostname and stands in its certificates."""
        return f"{self.name}.{DOMAIN}"

    @property
    def own(self) -> dict[str, Path]:
        """The directories that are the host's own: what it calls them, and where they are outside."""
        places = {
            "/run": "run",
            "/etc": "etc",
            "/var/lib/libvirt": "lib",
            "/var/cache/libvirt": "cache",
            "/var/log/libvirt": "log",
        }
        return {inside: self.directory / outside for inside, outside in places.items()}

    def outside(self, path: str) -> Path:
        """Where a path of this host is for those outside of it."""
        for inside, place in self.own.items():
            if path == inside or path.startswith(f"{inside}/"):
                return place / path[len(inside) :].lstrip("/")
        return Path(path)


def plan(directory: Path) -> tuple[LabHostPlan, LabHostPlan]:
    """The hosts A and B of a lab in ``directory``."""
    return (
        LabHostPlan(
            letter="A",
            name="hosta",
            address="192.0.2.1",
            second_address="198.51.100.1",
            address6="2001:db8::1",
            uuid="aaaaaaaa-0000-4000-8000-00000000000a",
            directory=directory / "A",
        ),
        LabHostPlan(
            letter="B",
            name="hostb",
            address="192.0.2.2",
            second_address="198.51.100.2",
            address6="2001:db8::2",
            uuid="bbbbbbbb-0000-4000-8000-00000000000b",
            directory=directory / "B",
        ),
    )
