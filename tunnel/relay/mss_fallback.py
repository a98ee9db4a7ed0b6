"""How large the TCP segments of a peer's next lane may be, where packets of full size seem to get lost.

A path whose MTU is smaller than the hosts believe, and whose ICMP is filtered, lets the connection come up
and then loses every full packet (RFC 2923, section 2.1). The kernel can find that out by itself, but only if
the administrator lets it (tcp_mtu_probing in tcp(7)). What a program can do is ask for smaller segments when
it connects: that binds both directions.
"""

from __future__ import annotations

import math

from tunnel.errors import LaneStalled

SIZES = (None, 1220, 536)
"""Tried one after the other: as the hosts believe, what IPv6's least MTU carries (RFC 8200, section 5), and
what IPv4 may always send (RFC 9293, section 3.7.1). After the last one it was not that: as at first."""

KEPT = 3600.0
"""Seconds after which full segments are tried again, when another lane is made."""


SUSPECTED = 60.0
"""Seconds within which a second stall makes one believed that may have been a peer that was hung."""


class MssFallback:
    """One dialer's. Times are seconds of any clock that only goes forward."""

    def __init__(self) -> None:
        self._step = 0
        self._since = 0.0
        self._suspected = -math.inf

    def size(self, now: float) -> int | None:
        """Bytes that a segment may have; None for what the kernel takes."""
        if now - self._since >= KEPT:
            self._step = 0
        return SIZES[self._step]

    def stalled(self, now: float, stall: LaneStalled) -> bool:
        """A connection with segments of ``size`` came up, and then stalled; whether to take the next size.

        Small segments cost a fast link dear: with full ones, a stall without proof counts when another one
        has just been. Connections that stall at the same time are one.
        """
        since = now - stall.seconds
        if not stall.proven and self.size(now) is None:
            if since < self._suspected:
                return False
            if since > self._suspected + SUSPECTED:
                self._suspected = now
                return False
        self._step, self._since = (SIZES.index(self.size(now)) + 1) % len(SIZES), now
        self._suspected = -math.inf
        return True
