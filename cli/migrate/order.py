"""The arguments of ``mtunnel migrate``, checked for options that conflict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunnel.daemon.config import Config
from tunnel.errors import UsageError
from tunnel.virt.libvirt_request import Storage
from tunnel.virt.move import Action


@dataclass(frozen=True, slots=True)
class MigrateArguments:
    """One migration. ``bandwidth`` in bytes per second, ``timeout`` in seconds. ``qmp``: without libvirt."""

    config: Config
    guest: str | None
    peer: str
    via: str | None = None
    live: bool = True
    postcopy: bool = False
    parallel: int = 0
    bandwidth: int | None = None
    auto_converge: bool = False
    timeout: float | None = None
    timeout_action: Action = Action.SUSPEND
    # Through libvirt.
    p2p: bool = True
    postcopy_resume: bool = False
    copy_storage: Storage | None = None
    persist: bool = False
    undefine_source: bool = False
    connect: str = "qemu:///system"
    desturi: str | None = None
    tls_destination: str | None = None
    # Without it.
    qmp: Path | None = None
    dest_qmp: Path | None = None
    postcopy_preempt: bool = False
    return_path: bool = True

    def check(self) -> None:
        """Raise UsageError for options that conflict."""
        if self.qmp is None:
            self._check_libvirt()
        else:
            self._check_qmp()
        if self.postcopy and self.parallel:
            raise UsageError("--postcopy and --parallel cannot be combined: QEMU's multifd has no post-copy")
        if self.timeout_action is Action.POSTCOPY and not self.postcopy:
            raise UsageError("--timeout-action postcopy needs --postcopy")
        if self.timeout is None and self.timeout_action is not Action.SUSPEND:
            raise UsageError(f"--timeout-action {self.timeout_action} needs --timeout")

    @property
    def switch_later(self) -> bool:
        """Whether post-copy begins at the timeout instead of after the first pass."""
        return self.timeout is not None and self.timeout_action is Action.POSTCOPY

    def streams(self, disks: int = 0) -> int:
        """Return the number of connections that it opens through the tunnel, with ``disks`` to copy.

        QEMU opens a main channel in addition to those of multifd, one for urgent pages, one per disk (NBD);
        with ``p2p`` the source's libvirt connects to the destination's.
        """
        libvirts = self.qmp is None and self.p2p
        return 1 + self.parallel + self.postcopy_preempt + disks + libvirts

    @property
    def label(self) -> str:
        """The guest's name for messages."""
        return self.guest or (self.qmp.stem if self.qmp else "the guest")

    def _check_libvirt(self) -> None:
        if self.guest is None:
            raise UsageError("name the guest and the peer: mtunnel migrate GUEST PEER")
        foreign = {
            "--dest-qmp": self.dest_qmp is not None,
            "--postcopy-preempt": self.postcopy_preempt,
            "--no-return-path": not self.return_path,
        }
        _refuse(foreign, "needs --qmp: libvirt controls this itself")

    def _check_qmp(self) -> None:
        foreign = {
            "--direct": not self.p2p,
            "--no-live": not self.live,
            "--postcopy-resume": self.postcopy_resume,
            "--copy-storage": self.copy_storage is not None,
            "--persist": self.persist,
            "--undefine-source": self.undefine_source,
            "--desturi": self.desturi is not None,
            "--tls-destination": self.tls_destination is not None,
        }
        _refuse(foreign, "is a libvirt option: it cannot be combined with --qmp")
        if self.postcopy_preempt and not self.postcopy:
            raise UsageError("--postcopy-preempt needs --postcopy")
        if self.postcopy and not self.return_path:
            raise UsageError("--postcopy needs the return path: remove --no-return-path")


def _refuse(given: dict[str, bool], why: str) -> None:
    for option, used in given.items():
        if used:
            raise UsageError(f"{option} {why}")
