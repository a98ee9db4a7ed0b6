"""What the two ends of a lane have proven to each other, kept so that it can be judged again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from tunnel.tls.expiry import Expiry
from tunnel.tls.openssl import CertificateRejectedError
from tunnel.tls.rejections import explain_rejection, name_of
from tunnel.tls.trust import Chain, Trust


@dataclass(frozen=True, slots=True)
class VerifiedChains:
    """``peer`` is the name that was proven; ``dialing`` says that this end dialled.

    ``theirs`` was verified by ``trust``; ``ours`` is what the peer was shown.
    """

    peer: str
    trust: Trust
    theirs: Chain
    ours: Chain
    dialing: bool

    @property
    def ends(self) -> datetime:
        """When the first certificate of either chain ends."""
        return min(certificate.not_valid_after_utc for certificate in (*self.theirs, *self.ours))

    def expiries(self) -> Iterator[Expiry]:
        """What ends of the peer's chain; its authority is one of ours."""
        for depth, certificate in enumerate(self.theirs):
            if certificate not in self.trust.authorities:
                name = (
                    f" intermediate certificate {name_of(certificate.subject)}" if depth else " certificate"
                )
                yield Expiry("peer", f"{self.peer}'s{name}", certificate.not_valid_after_utc)

    def objection(self, trust: Trust, moment: datetime, host: str) -> str:
        """Say why the lane may not go on by what ``trust`` knows at ``moment``; empty if it may.

        ``host`` is this end's name. The words are for both ends.
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
