"""The verified chains of both ends of a lane, kept to be verified again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from tunnel.tls.expiry import Expiry
from tunnel.tls.openssl import CertificateRejectedError
from tunnel.tls.rejections import explain_rejection, name_of
from tunnel.tls.trust import Chain, Trust


@dataclass(frozen=True, slots=True)
class VerifiedChains:
    """The chains of a lane to ``peer``, its authenticated name; ``dialing``: whether this end dialed.

    ``theirs`` was verified by ``trust``; ``ours`` was sent to the peer.
    """

    peer: str
    trust: Trust
    theirs: Chain
    ours: Chain
    dialing: bool
    ends: datetime = field(init=False)
    """The earliest expiry date of both chains."""

    def __post_init__(self) -> None:
        """Compute ``ends`` once: it is compared with the clock every second."""
        ends = min(certificate.not_valid_after_utc for certificate in (*self.theirs, *self.ours))
        object.__setattr__(self, "ends", ends)

    def expiries(self) -> Iterator[Expiry]:
        """Yield the expiry dates of the peer's chain, without its authority, which is one of ours."""
        for depth, certificate in enumerate(self.theirs):
            if certificate not in self.trust.authorities:
                name = (
                    f" intermediate certificate {name_of(certificate.subject)}" if depth else " certificate"
                )
                yield Expiry("peer", f"{self.peer}'s{name}", certificate.not_valid_after_utc)

    def objection(self, trust: Trust, moment: datetime, host: str) -> str:
        """Return why ``trust`` no longer allows the lane at ``moment``; empty if it does.

        ``host`` is this end's name. The text is for both ends.
        """
        for chain, dialing, whose in (
            (self.theirs, not self.dialing, self.peer),
            (self.ours, self.dialing, host),
        ):
            try:
                trust.judge(chain, moment, dialing=dialing)
            except CertificateRejectedError as fault:
                return explain_rejection(
                    fault, trust.files, f"{whose}'s", dialing=dialing, clock=lambda: moment
                )
        return ""
