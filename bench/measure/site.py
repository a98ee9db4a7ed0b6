"""The setup of one measurement: addresses, certificates and a directory, all new.

::

    source ── entry ──► [ side a ] ══ link, TLS ══► [ side b ] ──► exit ── sink
              127.0.0.2            127.0.0.3                127.0.0.1
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunnel.bench.measure.endpoint import ProgramAddress, free_tcp
from tunnel.certs.authority import Authority
from tunnel.certs.pair_files import Pair

HOST_A = "hosta"
HOST_B = "hostb"
ADDRESS_A = "127.0.0.2"
ADDRESS_B = "127.0.0.3"


@dataclass(frozen=True)
class Site:
    """The setup for a contestant. ``congestion`` is the congestion control of every socket of this run."""

    directory: Path
    ca: Path
    pair_a: Pair
    pair_b: Pair
    entry: ProgramAddress
    link: ProgramAddress
    exit: ProgramAddress
    congestion: str

    def control(self, host: str) -> Path:
        """Return the control socket of the daemon of ``host``, HOST_A or HOST_B."""
        return self.directory / f"{host}.control"

    @property
    def link_ends(self) -> list[tuple[Path, str]]:
        """Each daemon's control socket and its peer."""
        return [(self.control(HOST_A), HOST_B), (self.control(HOST_B), HOST_A)]

    def write(self, name: str, text: str) -> Path:
        """Write a configuration file with mode 0600 into the directory; return its path."""
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(text)
        return path


def lay_out(directory: Path, congestion: str, *, unix_legs: bool = False) -> Site:
    """Create certificates and choose addresses. With ``unix_legs`` entry and exit are unix sockets."""
    authority = Authority.create(directory / "pki")
    return Site(
        directory=directory,
        ca=authority.files.cert,
        pair_a=authority.issue(HOST_A),
        pair_b=authority.issue(HOST_B),
        entry=ProgramAddress(path=str(directory / "entry.sock")) if unix_legs else free_tcp(ADDRESS_A),
        link=free_tcp(ADDRESS_B),
        exit=ProgramAddress(path=str(directory / "exit.sock")) if unix_legs else free_tcp("127.0.0.1"),
        congestion=congestion,
    )
