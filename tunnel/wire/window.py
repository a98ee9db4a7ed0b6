"""Flow-control arithmetic: absolute offsets, one window per stream and direction.

Credit is returned when bytes were *delivered* (written into the local socket), not when they arrived. So a
window bounds the memory of both ends, and ``delivered`` is also the acknowledgement that lets the sender
release what it keeps for replay. In the style of QUIC (RFC 9000 section 4), except that credit means
delivery.

CREDIT for a quarter of the window is sent immediately; that costs little, and is enough as long as the sender
may have that much in flight. The sender's memory may be smaller than our window, and it then stops before a
quarter is delivered. So there are two more rules (``Credits``). A delivered amount that did not grow for a
while is reported, however small. And a sender that is short of memory *requests* credit: it repeats its last
CREDIT, and the receiver of a CREDIT without news answers as soon as ``STEP`` bytes are delivered. (To a peer
that does not implement this it is a duplicate.)
"""

from __future__ import annotations

from tunnel.errors import ProtocolError
from tunnel.units import KIB, MIB
from tunnel.wire.codec import encode
from tunnel.wire.codes import MAX_OFFSET, Code
from tunnel.wire.frames import Credit

INITIAL_WINDOW = 4 * MIB
FLOOR_WINDOW = MIB
"""Bytes granted to every stream beside the budget, which stalled streams may have used up."""

MAX_WINDOW = 64 * MIB

KEEP_FLOOR = MIB
"""Bytes that every stream may keep for replay beside the budget: one must not stall another."""

RESERVE = 4
"""The last quarter of a budget is for streams of which ``CARRIED`` bytes were delivered."""

CARRIED = 16 * MIB
"""More bytes than sockets take of a stream that is stalled from the start."""

STEP = 256 * KIB
"""Bytes of credit due to a sender that requests it: its memory, not the window, is its limit."""

ACK_DELAY = 0.02
"""Seconds between two calls of ``Credits.tell_late``: deliveries are reported after 20 to 40 ms."""


class MemoryBudget:
    """The bytes that all windows of one link may grant together, beside a floor for each."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0

    def take(self, wanted: int) -> int:
        """Grant a new window of up to ``wanted`` bytes: the floor, and at most a quarter of what is free.

        So early streams cannot starve later ones, and every stream can always make progress.
        """
        granted = min(wanted, FLOOR_WINDOW + self._free(carried=False) // 4)
        self.used += _beyond_floor(granted)
        return granted

    def grow(self, window: int, most: int, *, carried: bool) -> int:
        """Grant more bytes to a window that is too small, ``most`` at most, out of what is free."""
        to_floor = max(0, FLOOR_WINDOW - window)
        granted = max(0, min(most, to_floor + self._free(carried=carried) // 2))
        self.used += _beyond_floor(window + granted) - _beyond_floor(window)
        return granted

    def give_back(self, window: int) -> None:
        """Return a window that is no longer needed."""
        self.used -= _beyond_floor(window)

    def _free(self, *, carried: bool) -> int:
        reserved = 0 if carried else self.total // RESERVE
        return max(0, self.total - reserved - self.used)


def _beyond_floor(window: int) -> int:
    return max(0, window - FLOOR_WINDOW)


class SendWindow:
    """What we may still send. ``delivered <= sent <= limit``, each of them only ever grows."""

    def __init__(self, limit: int = 0) -> None:
        self.sent = 0
        self.delivered = 0
        self.limit = limit

    @property
    def told(self) -> tuple[int, int]:
        """``(delivered, limit)`` as last received in the peer's CREDIT."""
        return self.delivered, self.limit

    @property
    def carried(self) -> bool:
        """Whether enough was delivered for the stream to use the reserve of the memory."""
        return self.delivered >= CARRIED

    @property
    def unacknowledged(self) -> int:
        """Bytes that were sent and must be kept for replay."""
        return self.sent - self.delivered

    def credit(self, delivered: int, limit: int) -> None:
        """Process the peer's CREDIT. An older one, overtaken on another lane, changes nothing.

        Raises ProtocolError when it acknowledges bytes that were never sent, or contradicts itself.
        """
        if delivered > self.sent or delivered > limit:
            detail = f"delivered {delivered}, limit {limit}, but sent {self.sent}"
            raise ProtocolError(Code.FLOW_CONTROL, f"impossible credit: {detail}")
        self.delivered = max(self.delivered, delivered)
        self.limit = max(self.limit, limit)


class ReceiveWindow:
    """What the peer may still send. ``delivered <= received <= limit``."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.received = 0
        self.delivered = 0
        self.limit = size  # as last advertised
        self.asked = False  # the peer requested credit: it is due for less than a quarter of the window
        self._advertised = 0  # delivered, as last advertised in a frame that arrives, or is sent again
        self._advertised_at: float | None = None

    def check(self, offset: int, length: int) -> None:
        """Raise ProtocolError when bytes ``offset`` to ``offset + length`` were never allowed."""
        if offset + length > min(self.limit, MAX_OFFSET):
            detail = f"bytes {offset} to {offset + length}, limit {self.limit}"
            raise ProtocolError(Code.FLOW_CONTROL, f"data outside the window: {detail}")

    def deliver(self, count: int) -> bool:
        """Count ``count`` more bytes as delivered into the local socket; return whether CREDIT is due."""
        self.delivered += count
        untold = self.delivered - self._advertised
        return untold * 4 >= self.size or (self.asked and untold >= STEP)

    def ask(self) -> bool:
        """Process the peer's request for credit; return whether CREDIT is due."""
        self.asked = True
        return self.deliver(0)

    @property
    def carried(self) -> bool:
        """As ``SendWindow.carried``."""
        return self.delivered >= CARRIED

    @property
    def quarter(self) -> bool:
        """Whether at least a quarter of the window was delivered and not advertised."""
        return (self.delivered - self._advertised) * 4 >= self.size

    @property
    def told(self) -> tuple[int, int]:
        """``(delivered, limit)`` as last advertised."""
        return self._advertised, self.limit

    @property
    def unadvertised(self) -> bool:
        """Whether something was delivered and not advertised."""
        return self.delivered > self._advertised

    def advertise(self) -> tuple[int, int]:
        """Return ``(delivered, limit)`` for a CREDIT frame to send now."""
        self._advertised = self.delivered
        self.asked = False
        return self.position()

    def position(self) -> tuple[int, int]:
        """Return the same for RESUME or RESUMED. CREDIT stays due, since either frame may be lost."""
        self.limit = max(self.limit, self.delivered + self.size)
        return self.delivered, self.limit

    def outpaced(self, now: float, round_trip: float) -> bool:
        """Whether a quarter of the window passed within half a round trip: then it is the bottleneck.

        Call once for each credit that is due; ``now`` and ``round_trip`` are seconds.
        """
        before, self._advertised_at = self._advertised_at, now
        return before is not None and (now - before) * 2 < round_trip


class Credits:
    """The streams for which CREDIT is to be sent, now or later, by number."""

    def __init__(self) -> None:
        self.queue: dict[int, ReceiveWindow] = {}  # those for which it is due, in order
        self._asking: set[int] = set()  # those that request credit: sent twice if it has news
        self._late: dict[int, tuple[ReceiveWindow, int]] = {}  # and what was delivered at the last check

    def __bool__(self) -> bool:
        return bool(self.queue)

    @property
    def late(self) -> bool:
        """Whether ``tell_late`` is to be called in ACK_DELAY seconds."""
        return bool(self._late)

    def due(self, number: int, window: ReceiveWindow) -> bool:
        """Queue CREDIT; return whether it was not queued before."""
        if number in self.queue:
            return False
        self.queue[number] = window
        return True

    def wait(self, number: int, window: ReceiveWindow) -> None:
        """Register a delivery for which CREDIT is not due yet: ``tell_late`` reports it."""
        if number not in self._late:
            self._late[number] = window, -1

    def ask(self, number: int, window: ReceiveWindow) -> None:
        """Request credit from the peer, by a CREDIT without news."""
        self._asking.add(number)
        self.queue[number] = window

    def tell_late(self) -> None:
        """Queue CREDIT for all that was delivered before the last call, and did not grow since."""
        for number, (window, before) in list(self._late.items()):
            if not window.unadvertised:
                del self._late[number]
            elif window.delivered == before:
                del self._late[number]
                self.queue[number] = window
            else:
                self._late[number] = window, window.delivered

    def forget(self, number: int) -> None:
        """Drop a stream that is closed, or for which DELIVERED replaces CREDIT."""
        self.queue.pop(number, None)
        self._late.pop(number, None)
        self._asking.discard(number)

    def next(self) -> bytes:
        """Return the CREDIT to send now, b"" if there is none."""
        if not self.queue:
            return b""
        number = next(iter(self.queue))
        window = self.queue.pop(number)
        before = window.told
        raw = encode(Credit(number, *window.advertise()))
        if number not in self._asking:
            return raw
        self._asking.discard(number)
        return raw if window.told == before else raw + raw
