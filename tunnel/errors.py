"""Every error that mtunnel raises deliberately.

::

    TunnelError                 the base class; the command line prints its message and exits with its code
    ├── ConfigError             the configuration is invalid: lists every mistake            exit 2
    ├── CertificateError        a certificate or key file is missing, unreadable, unsuitable exit 2
    ├── UsageError              wrong arguments or environment (tool missing)                exit 2
    ├── RefusedError            the peer, or our own policy for it, refused                  exit 3
    ├── UnreachableError        no answer: link, lane or target                              exit 4
    ├── WireError               a protocol error; carries its code
    │   ├── ProtocolError       the PEER violated the protocol: its link is closed with the code
    │   └── MisuseError         WE called the protocol core wrongly: a bug of ours
    ├── LaneError               a TLS connection failed
    │   ├── LaneLost            it ended without GOAWAY: the link may resume
    │   │   └── LaneStalled     it connected, then nothing got through: an MTU too large, or a host down
    │   └── IdentityError       TLS succeeded, but the certificate is not that of a configured peer
    └── HypervisorError         QEMU or libvirt
        ├── MigrationError      the migration itself failed
        └── VerificationError   it succeeded, but the guest's memory has changed

A peer or a user can cause any of these; so none is ever an ``assert``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunnel.wire.codes import Code


class TunnelError(Exception):
    """The base class of mtunnel's exceptions. ``exit_code`` is the exit status of the command."""

    exit_code: ClassVar[int] = 1


class ConfigError(TunnelError):
    """The configuration is invalid. ``problems`` lists every mistake as ``(key, message)``."""

    exit_code = 2

    def __init__(self, source: str, problems: Sequence[tuple[str, str]]) -> None:
        self.source = source
        self.problems = tuple(problems)
        lines = [f"  {key}: {message}" if key else f"  {message}" for key, message in self.problems]
        count = f"{len(lines)} problem" + ("s" if len(lines) != 1 else "")
        super().__init__("\n".join([f"{source}: {count}", *lines]))


class CertificateError(TunnelError):
    """A certificate, key or CA file is missing, unreadable or unsuitable."""

    exit_code = 2


class UsageError(TunnelError):
    """The command cannot run as called, or something that it needs is not installed."""

    exit_code = 2


class RefusedError(TunnelError):
    """The peer, or our policy for that peer, refused. ``reason`` is text for people."""

    exit_code = 3

    def __init__(self, reason: str, code: Code | None = None) -> None:
        self.reason = reason
        self.code = code
        super().__init__(reason)


class UnreachableError(TunnelError):
    """No answer in time from a peer's port, or from a local target."""

    exit_code = 4


class WireError(TunnelError):
    """A protocol error. ``code`` is the one that goes into GOAWAY or RESET (SPEC.md section 10)."""

    def __init__(self, code: Code, message: str) -> None:
        self.code = code
        super().__init__(f"{message} [{code.name}]")


class ProtocolError(WireError):
    """The peer violated the protocol: the lane is closed with GOAWAY and this code."""


class MisuseError(WireError):
    """Our own side called the protocol core in a state that does not allow it."""


class LaneError(TunnelError):
    """A TLS connection failed."""


class LaneLost(LaneError):  # noqa: N818  "lost" is the protocol's term
    """The lane ended without GOAWAY. The link may resume on another lane."""


class LaneStalled(LaneLost):
    """The lane connected, but then data was not acknowledged, or none was received, for too long.

    ``seconds``: for how long. ``proven``: while small packets arrived, full-sized ones did not; otherwise the
    peer may just as well hang.
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
    """QEMU or libvirt failed, or returned something unusable."""


class MigrationError(HypervisorError):
    """The migration failed; the message names the side on which the guest runs now."""


class VerificationError(HypervisorError):
    """The migration succeeded, but the memory of the guest has changed."""
