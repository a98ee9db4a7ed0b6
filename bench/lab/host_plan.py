"""The definition of the two hosts: names, addresses, and their files below the lab's directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PORT = 16515
"""The port of mtunnel, which the firewalls leave open."""

DOMAIN = "lab"


@dataclass(frozen=True, slots=True)
class LabHostPlan:
    """The definition of one host. ``address`` is on its first interface (eth0), ``second_address`` on eth1.

    ``directory`` is the host's part of the lab's directory. In the host, ``/run``, ``/etc``,
    ``/var/lib/libvirt``, ``/var/cache/libvirt`` and ``/var/log/libvirt`` are its own; they can be reached
    from outside the host below ``directory``. All else, the lab's directory included, is the machine's.
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
        """The host's fully qualified name, which is its hostname and is in its certificates."""
        return f"{self.name}.{DOMAIN}"

    @property
    def own(self) -> dict[str, Path]:
        """The directories of the host's own: paths inside, and paths outside."""
        places = {
            "/run": "run",
            "/etc": "etc",
            "/var/lib/libvirt": "lib",
            "/var/cache/libvirt": "cache",
            "/var/log/libvirt": "log",
        }
        return {inside: self.directory / outside for inside, outside in places.items()}

    def outside(self, path: str) -> Path:
        """Return the path outside for a path inside of the host."""
        for inside, place in self.own.items():
            if path == inside or path.startswith(f"{inside}/"):
                return place / path[len(inside) :].lstrip("/")
        return Path(path)


def plan(directory: Path) -> tuple[LabHostPlan, LabHostPlan]:
    """Return the hosts A and B of a lab in ``directory``."""
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
