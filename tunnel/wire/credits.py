"""When CREDIT is sent: when it is due, when it is late, and to request credit.

CREDIT for a quarter of the window is sent immediately; that costs little, and is enough as long as the sender
may have that much in flight. The sender's memory may be smaller than our window, and it then stops before a
quarter is delivered. So there are two more rules. A delivered amount that did not grow for a while is
reported, however small. And a sender that is short of memory *requests* credit: it repeats its last CREDIT,
and the receiver of a CREDIT without news answers as soon as ``STEP`` bytes are delivered. (To a peer that
does not implement this it is a duplicate.)
"""

from __future__ import annotations

from tunnel.wire.codec import encode
from tunnel.wire.frames import Credit
from tunnel.wire.window import ReceiveWindow

ACK_DELAY = 0.02
"""Seconds between two calls of ``Credits.tell_late``: deliveries are reported after 20 to 40 ms."""


class Credits:
    """The streams for which CREDIT is to be sent, now or later, by number."""

    def __init__(self) -> None:
        self._due: dict[int, ReceiveWindow] = {}  # in order
        self._asking: set[int] = set()  # those that request credit: sent twice if it has news
        self._late: dict[int, tuple[ReceiveWindow, int]] = {}  # and what was delivered at the last check

    def __bool__(self) -> bool:
        return bool(self._due)

    @property
    def late(self) -> bool:
        """Whether ``tell_late`` is to be called in ACK_DELAY seconds."""
        return bool(self._late)

    def due(self, number: int, window: ReceiveWindow) -> bool:
        """Queue CREDIT; return whether it was not queued before."""
        if number in self._due:
            return False
        self._due[number] = window
        return True

    def wait(self, number: int, window: ReceiveWindow) -> None:
        """Register a delivery for which CREDIT is not due yet: ``tell_late`` reports it."""
        if number not in self._late:
            self._late[number] = window, -1

    def ask(self, number: int, window: ReceiveWindow) -> None:
        """Request credit from the peer, by a CREDIT without news."""
        self._asking.add(number)
        self._due[number] = window

    def tell_late(self) -> None:
        """Queue CREDIT for all that was delivered before the last call, and did not grow since."""
        for number, (window, before) in list(self._late.items()):
            if not window.unadvertised:
                del self._late[number]
            elif window.delivered == before:
                del self._late[number]
                self._due[number] = window
            else:
                self._late[number] = window, window.delivered

    def forget(self, number: int) -> None:
        """Drop a stream that is closed, or for which DELIVERED replaces CREDIT."""
        self._due.pop(number, None)
        self._late.pop(number, None)
        self._asking.discard(number)

    def next(self) -> bytes:
        """Return the CREDIT to send now, b"" if there is none."""
        if not self._due:
            return b""
        number = next(iter(self._due))
        window = self._due.pop(number)
        before = window.told
        raw = encode(Credit(number, *window.advertise()))
        if number not in self._asking:
            return raw
        self._asking.discard(number)
        return raw if window.told == before else raw + raw
