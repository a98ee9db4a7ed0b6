"""The options of a migration, the same for libvirt and QMP; each backend translates them.

The metadata of a field that only one backend has names that, and the option of ``mtunnel migrate`` to refuse.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum

from tunnel.errors import UsageError
from tunnel.units import MIB

_REFUSED = {
    "libvirt": "is a libvirt option: it cannot be combined with --qmp",
    "qmp": "needs --qmp: libvirt controls this itself",
}


class Action(StrEnum):
    """The action on a migration that exceeds its timeout."""

    SUSPEND = "suspend"
    POSTCOPY = "postcopy"
    ABORT = "abort"


class Storage(StrEnum):
    """Which disks are copied: all, or only the differences from a shared backing file."""

    ALL = "all"
    INC = "inc"


@dataclass(frozen=True, slots=True)
class MoveOptions:
    """One migration. ``bandwidth`` in bytes per second, None = unlimited; times in seconds.

    ``parallel`` is the number of multifd channels, 0 = one plain stream. ``p2p``: managed by the source's
    libvirt, and survives the client; otherwise managed by the client ("managed direct").
    ``postcopy_preempt`` sends requested pages on a separate channel: None = if both sides are known to
    support it. ``switch_after``: passes over the memory before post-copy begins, 0 = immediately;
    ``downtime_limit`` is for QMP.
    """

    postcopy: bool = False
    parallel: int = 0
    bandwidth: int | None = None
    auto_converge: bool = False
    timeout: float | None = None
    timeout_action: Action = Action.SUSPEND
    switch_after: int = 1
    downtime_limit: float = 0.3
    p2p: bool = field(default=True, metadata={"libvirt": "--direct"})
    live: bool = field(default=True, metadata={"libvirt": "--no-live"})
    postcopy_resume: bool = field(default=False, metadata={"libvirt": "--postcopy-resume"})
    copy_storage: Storage | None = field(default=None, metadata={"libvirt": "--copy-storage"})
    persist: bool = field(default=False, metadata={"libvirt": "--persist"})
    undefine_source: bool = field(default=False, metadata={"libvirt": "--undefine-source"})
    tls_destination: str | None = field(default=None, metadata={"libvirt": "--tls-destination"})
    postcopy_preempt: bool | None = field(default=False, metadata={"qmp": "--postcopy-preempt"})
    return_path: bool = field(default=True, metadata={"qmp": "--no-return-path"})

    def check(self, *, libvirt: bool) -> None:
        """Raise UsageError for options that conflict, or that the backend does not have."""
        foreign = "qmp" if libvirt else "libvirt"
        for each in fields(self):
            if foreign in each.metadata and getattr(self, each.name) != each.default:
                raise UsageError(f"{each.metadata[foreign]} {_REFUSED[foreign]}")
        if self.postcopy and self.parallel:
            raise UsageError("--postcopy and --parallel cannot be combined: QEMU's multifd has no post-copy")
        if self.timeout_action is Action.POSTCOPY and not self.postcopy:
            raise UsageError("--timeout-action postcopy needs --postcopy")
        if self.timeout is None and self.timeout_action is not Action.SUSPEND:
            raise UsageError(f"--timeout-action {self.timeout_action} needs --timeout")
        if self.postcopy_resume and not self.postcopy:
            raise UsageError("--postcopy-resume needs --postcopy")
        if self.postcopy_preempt and not self.postcopy:
            raise UsageError("--postcopy-preempt needs --postcopy")
        if self.postcopy and not self.return_path:
            raise UsageError("--postcopy needs the return path: remove --no-return-path")
        if libvirt and self.bandwidth is not None and self.bandwidth < MIB:
            raise UsageError("--bandwidth: libvirt counts in MiB/s, the minimum is 1MiB")

    @property
    def switch_at(self) -> int | None:
        """The pass over the memory with which post-copy begins; None = never, or at the timeout."""
        late = self.timeout is not None and self.timeout_action is Action.POSTCOPY
        return None if late or not self.postcopy else self.switch_after + 1


DEFAULTS = MoveOptions()
"""Pre-copy over one plain stream."""
