"""The TCP segment size of a peer's next lane, reduced if full-size packets seem to be lost (PMTU black hole).

On a path whose MTU is smaller than the hosts assume, and whose ICMP is filtered, a connection comes up and
then loses every full-size packet (RFC 2923, section 2.1). The kernel can detect that, but only if the
administrator enables it (tcp_mtu_probing in tcp(7)). A program can set a smaller MSS when it connects, which
applies to both directions.
"""

from __future__ import annotations

import math

from tunnel.errors import LaneStalled

SIZES = (None, 1220, 536)
"""Tried in order: the kernel's choice, the payload of IPv6's minimum MTU (RFC 8200, section 5), and IPv4's
default MSS (RFC 9293, section 3.7.1). If the last one stalls too, the cause is another: back to the first."""

KEPT = 3600.0
"""Seconds after which the next new lane tries full-size segments again."""


SUSPECTED = 60.0
"""Seconds within which a second stall confirms a first one, which a hung peer may have caused."""


class MssFallback:
    """The MSS fallback of one dialer. Times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._step = 0
        self._since = 0.0
        self._suspected = -math.inf

    def size(self, now: float) -> int | None:
        """Return the maximum segment size in bytes; None for the kernel's choice."""
        if now - self._since >= KEPT:
            self._step = 0
        return SIZES[self._step]

    def stalled(self, now: float, stall: LaneStalled) -> bool:
        """Record that a connection of the current ``size`` stalled. Return whether the size was changed.

        Small segments are expensive on a fast link: with full-size ones, an unproven stall counts only if it
        follows another one closely. Connections that stall at the same time count as one.
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
