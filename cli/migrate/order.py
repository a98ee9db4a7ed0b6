"""The arguments of ``mtunnel migrate``: the guest, the way to it, and the options of its migration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunnel.daemon.config import Config
from tunnel.errors import UsageError
from tunnel.virt.move_options import DEFAULTS, MoveOptions


@dataclass(frozen=True, slots=True)
class MigrateArguments:
    """One migration. With ``qmp``, without libvirt; ``connect`` and ``desturi`` are libvirt's URIs."""

    config: Config
    guest: str | None
    peer: str
    options: MoveOptions = DEFAULTS
    via: str | None = None
    connect: str = "qemu:///system"
    desturi: str | None = None
    qmp: Path | None = None
    dest_qmp: Path | None = None

    def check(self) -> None:
        """Raise UsageError for arguments that conflict."""
        if self.qmp is None and self.guest is None:
            raise UsageError("name the guest and the peer: mtunnel migrate GUEST PEER")
        if self.qmp is None and self.dest_qmp is not None:
            raise UsageError("--dest-qmp needs --qmp: libvirt controls this itself")
        if self.qmp is not None and self.desturi is not None:
            raise UsageError("--desturi is a libvirt option: it cannot be combined with --qmp")
        self.options.check(libvirt=self.qmp is None)

    def streams(self, disks: int = 0) -> int:
        """Return the number of connections that it opens through the tunnel, with ``disks`` to copy.

        QEMU opens a main channel in addition to those of multifd, one for urgent pages, one per disk (NBD);
        with ``p2p`` the source's libvirt connects to the destination's.
        """
        libvirts = self.qmp is None and self.options.p2p
        return 1 + self.options.parallel + bool(self.options.postcopy_preempt) + disks + libvirts

    @property
    def label(self) -> str:
        """The guest's name for messages."""
        return self.guest or (self.qmp.stem if self.qmp else "the guest")
