"""When the peer is told what was delivered: CREDIT that is due, that is late, and CREDIT that asks for some.

CREDIT for a quarter of the window is due at once; that costs little, and is enough as long as the sender may
have that much under way. Its memory may be shorter than our window, and it then stops before a quarter is
delivered. So two more rules. What did not grow for a while is told, however little it is. And a sender that
is short of memory *asks*: it says again what it said last, and whoever is told nothing new by a CREDIT
answers as soon as ``STEP`` bytes are delivered. (To a peer that does not know of this it is a duplicate.)
"""

from __future__ import annotations

from tunnel.wire.codec import encode
from tunnel.wire.frames import Credit
from tunnel.wire.window import ReceiveWindow

ACK_DELAY = 0.02
"""Seconds between two calls of ``Credits.tell_late``: what is delivered is told after 20 to 40 ms."""


class Credits:
    """The streams whose CREDIT is to go out, now or later, each by its number."""

    def __init__(self) -> None:
        self._due: dict[int, ReceiveWindow] = {}  # in order
        self._asking: set[int] = set()  # those of them that are to be told twice, if need be
        self._late: dict[int, tuple[ReceiveWindow, int]] = {}  # and what was delivered at the last look

    def __bool__(self) -> bool:
        return bool(self._due)

    @property
    def late(self) -> bool:
        """Whether ``tell_late`` is to be called in ACK_DELAY seconds."""
        return bool(self._late)

    def due(self, number: int, window: ReceiveWindow) -> bool:
        """CREDIT is to go out; whether that is new."""
        if number in self._due:
            return False
        self._due[number] = window
        return True

    def wait(self, number: int, window: ReceiveWindow) -> None:
        """Something was delivered, and CREDIT is not due yet: ``tell_late`` sees to it."""
        if number not in self._late:
            self._late[number] = window, -1

    def ask(self, number: int, window: ReceiveWindow) -> None:
        """Ask the peer for credit, by a CREDIT without news."""
        self._asking.add(number)
        self._due[number] = window

    def tell_late(self) -> None:
        """Let CREDIT go out for all that was delivered before the last call, and did not grow since."""
        for number, (window, before) in list(self._late.items()):
            if not window.unadvertised:
                del self._late[number]
            elif window.delivered == before:
                del self._late[number]
                self._due[number] = window
            else:
                self._late[number] = window, window.delivered

    def forget(self, number: int) -> None:
        """The stream is closed, or its end says it all."""
        self._due.pop(number, None)
        self._late.pop(number, None)
        self._asking.discard(number)

    def next(self) -> bytes:
        """Return the CREDIT that is to go out now, b"" if none is."""
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
