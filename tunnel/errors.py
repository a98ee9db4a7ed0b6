"""Every error that mtunnel raises on purpose.

::

    TunnelError                 the root; the command line turns it into one clear message and an exit code
    ├── ConfigError             what the operator wrote is wrong: every mistake at once      exit 2
    ├── CertificateError        a certificate or key file is missing, unreadable, unsuitable exit 2
    ├── UsageError              the command or its surroundings are wrong (tool missing)     exit 2
    ├── RefusedError            the peer, or our own policy for it, said no                  exit 3
    ├── UnreachableError        nobody answered: link, lane or target                        exit 4
    ├── WireError               the protocol; carries its code
    │   ├── ProtocolError       the PEER broke a rule: its link is closed with the code
    │   └── MisuseError         WE called the protocol core wrongly: a bug of ours
    ├── LaneError               a TLS connection
    │   ├── LaneLost            it ended without GOAWAY: the link may resume
    │   │   └── LaneStalled     it came up, and then nothing got through: an MTU too large, or a dead host
    │   └── IdentityError       TLS worked, but this is not a peer that we know
    └── HypervisorError         QEMU or libvirt
        ├── MigrationError      the migration itself failed
        └── VerificationError   it succeeded, but the memory is not what it was

A peer or a user can cause any of these; none is ever an ``assert``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunnel.wire.codes import Code


class TunnelError(Exception):
    """The root of everything that mtunnel raises on purpose. ``exit_code`` is the command's."""

    exit_code: ClassVar[int] = 1


class ConfigError(TunnelError):
    """The configuration is wrong. ``problems`` names every mistake as ``(key, message)``."""

    exit_code = 2

    def __init__(self, source: str, problems: Sequence[tuple[str, str]]) -> None:
        self.source = source
        self.problems = tuple(problems)
        lines = [f"  {key}: {message}" if key else f"  {message}" for key, message in self.problems]
        count = f"{len(lines)} problem" + ("s" if len(lines) != 1 else "")
        super().__init__("\n".join([f"{source}: {count}", *lines]))


class CertificateError(TunnelError):
    """A certificate, key or CA file is missing, unreadable, or not fit for its purpose."""

    exit_code = 2


class UsageError(TunnelError):
    """The command cannot run as it was called, or something that it needs is not installed."""

    exit_code = 2


class RefusedError(TunnelError):
    """The peer, or our policy for that peer, said no. ``reason`` is for people."""

    exit_code = 3

    def __init__(self, reason: str, code: Code | None = None) -> None:
        self.reason = reason
        self.code = code
        super().__init__(reason)


class UnreachableError(TunnelError):
    """Nobody answered in time: a peer's port, or a local target."""

    exit_code = 4


class WireError(TunnelError):
    """A fault of the protocol. ``code`` is the one that goes into GOAWAY or RESET (SPEC.md section 10)."""

    def __init__(self, code: Code, message: str) -> None:
        self.code = code
        super().__init__(f"{message} [{code.name}]")


class ProtocolError(WireError):
    """The peer broke a rule: the lane is closed with GOAWAY and this code."""


class MisuseError(WireError):
    """Our own side called the protocol core in a state that does not allow it."""


class LaneError(TunnelError):
    """A TLS connection failed."""


class LaneLost(LaneError):  # noqa: N818  "lost" is the design's word
    """The lane ended without GOAWAY. The link may resume on another lane."""


class LaneStalled(LaneLost):
    """It came up, and what was sent was not acknowledged, or nothing came, for too long.

    ``seconds``: for how long. ``proven``: while small packets arrived, full ones did not; otherwise the peer
    may as well be hung.
    """

    def __init__(self, reason: str, seconds: float, *, proven: bool = False) -> None:
        super().__init__(reason)
        self.seconds = seconds
        self.proven = proven


class IdentityError(LaneError):
    """TLS succeeded, but the certificate is not that of one peer. ``claimed`` are those that it names."""

    exit_code = 3

    def __init__(self, message: str, claimed: Sequence[str] = ()) -> None:
        self.claimed = tuple(claimed)
        super().__init__(message)


class HypervisorError(TunnelError):
    """QEMU or libvirt failed, or answered what we cannot work with."""


class MigrationError(HypervisorError):
    """The migration failed; the message says on which side the guest runs now."""


class VerificationError(HypervisorError):
    """The guest arrived, but its memory is not what it was."""
