"""The modes of ``bench migrate``: methods to migrate a guest from host A of the lab to host B.

All are controlled by A's libvirt (``--p2p``), natively with additional ports open in the firewall, and with
mtunnel through its single port. Encrypted ones require a certificate from both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunnel.bench.lab.configs import MIGRATION_PORTS, LabIngress
from tunnel.bench.lab.firewall import Ports
from tunnel.bench.lab.host_plan import LabHostPlan
from tunnel.bench.lab.libvirtd import SOCKET
from tunnel.errors import UsageError

CHANNELS = (4, 8)
"""Numbers of multifd channels: the most common choice, and twice as many."""

FORMER = {"multifd": "multifd-4", "multifd-tls": "multifd-tls-4", "mtunnel-multifd": "mtunnel-multifd-4"}
"""Former names of modes, in older result files: those with one number of channels."""

CUTS = 100
TUNNELLED_UNIX = "tunnelled-unix"

_ALIAS = "127.0.1.2"
_RPC = "/run/mtunnel/hostb/libvirt-sock"
_PORTS = "49152-49215"
_PLAIN, _TLS = 16509, 16514  # libvirt's own ports
_POSTCOPY = ("--postcopy", "--postcopy-after-precopy")

INGRESSES = (
    LabIngress("hostb", f"redirect:{_ALIAS}:{_PORTS}"),
    LabIngress("hostb", f"unix:{_RPC}", f"unix:{SOCKET}", users=["root"]),
)
"""The ingresses of mtunnel on A; ``EGRESS`` is the allow list on B."""
EGRESS = (MIGRATION_PORTS, f"unix:{SOCKET}")


@dataclass(frozen=True)
class MigrationMode:
    """One migration method.

    ``options`` follow ``virsh migrate --live --p2p GUEST``; in them ``{b}`` is host B's full name and
    ``{socket}`` the path of its libvirt socket for A. ``ports``: to open in B's firewall. ``on_network``:
    whether its bytes cross the link between the hosts. ``cuts``: number of lane resets meanwhile, evenly by
    bytes.
    """

    name: str
    about: str
    options: tuple[str, ...]
    encrypts: bool
    ports: tuple[Ports, ...] = ()
    uses_mtunnel: bool = False
    postcopy: bool = False
    on_network: bool = True
    cuts: int = 0

    @property
    def settings(self) -> str:
        """The settings to reproduce it."""
        options = " ".join(self.options).format(b="HOST", socket="SOCKET")
        return f"{self.about}: virsh migrate --live --p2p GUEST {options}"

    def command(self, guest: str, b: LabHostPlan) -> list[str]:
        """Return the command that host A runs to migrate ``guest``."""
        where = {"b": b.fqdn, "socket": str(b.outside(SOCKET))}
        return ["virsh", "migrate", "--live", "--p2p", guest, *(o.format(**where) for o in self.options)]

    def missing(self, link: int | None) -> str | None:
        """Return why this mode cannot be measured over a link of ``link`` bits per second, or None."""
        if link is not None and not self.on_network:
            return f"a unix socket between the hosts is not slowed by a link of {link / 1e9:g} Gbit/s"
        return None


def _parallel(channels: int) -> tuple[str, ...]:
    return "--parallel", "--parallel-connections", str(channels)


def _native(name: str, about: str, *options: str) -> MigrationMode:
    return MigrationMode(
        name,
        about,
        ("qemu+tcp://{b}/system", "--migrateuri", "tcp://{b}", *options),
        encrypts=False,
        ports=(_PLAIN, _PORTS),
    )


def _native_tls(name: str, about: str, *options: str) -> MigrationMode:
    return MigrationMode(
        name,
        about,
        ("qemu+tls://{b}/system", "--migrateuri", "tcp://{b}", "--tls", *options),
        encrypts=True,
        ports=(_TLS, _PORTS),
    )


def _mtunnel(name: str, about: str, *options: str, postcopy: bool = False, cuts: int = 0) -> MigrationMode:
    return MigrationMode(
        name,
        about,
        (f"qemu+unix:///system?socket={_RPC}", "--migrateuri", f"tcp://{_ALIAS}", *options),
        encrypts=True,
        uses_mtunnel=True,
        postcopy=postcopy,
        cuts=cuts,
    )


MODES: tuple[MigrationMode, ...] = (
    _native("native", "QEMU to QEMU, no encryption"),
    _native_tls("native-tls", "QEMU's own TLS"),
    _native("multifd-4", "QEMU to QEMU over 4 channels, no encryption", *_parallel(4)),
    *(_native_tls(f"multifd-tls-{n}", f"QEMU's own TLS on {n} channels", *_parallel(n)) for n in CHANNELS),
    MigrationMode(
        "tunnelled-tcp",
        "through both libvirt daemons, no encryption",
        ("qemu+tcp://{b}/system", "--tunnelled"),
        encrypts=False,
        ports=(_PLAIN,),
    ),
    MigrationMode(
        "tunnelled-tls",
        "through both libvirt daemons, over libvirt's TLS",
        ("qemu+tls://{b}/system", "--tunnelled"),
        encrypts=True,
        ports=(_TLS,),
    ),
    MigrationMode(
        TUNNELLED_UNIX,
        "through both libvirt daemons over a socket on this machine, no encryption",
        ("qemu+unix:///system?socket={socket}", "--tunnelled"),
        encrypts=False,
        on_network=False,
    ),
    _mtunnel("mtunnel", "one stream through mtunnel with its defaults"),
    *(
        _mtunnel(f"mtunnel-multifd-{n}", f"{n} channels through mtunnel with its defaults", *_parallel(n))
        for n in CHANNELS
    ),
    _mtunnel("mtunnel-postcopy", "post-copy after one pass, through mtunnel", *_POSTCOPY, postcopy=True),
)

ON_REQUEST = (
    _mtunnel("mtunnel-cut", f"one stream through mtunnel, whose lane is reset {CUTS} times", cuts=CUTS),
)
"""Modes that are measured only if named."""


def choose(names: Sequence[str]) -> list[MigrationMode]:
    """Return the modes with these ``names``, or all of ``MODES``. Raises UsageError for an unknown name.

    Former names are accepted as well.
    """
    names = [FORMER.get(name, name) for name in names]
    known = {mode.name: mode for mode in (*MODES, *ON_REQUEST)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"unknown mode: {', '.join(unknown)}; known: {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)] if names else list(MODES)
