"""One session under test, and a peer that sends the frames of the test. Payloads are ranges on purpose: the
core must not access them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.support.wire import frames
from tunnel.errors import ProtocolError
from tunnel.units import MIB
from tunnel.wire.codec import parse_header
from tunnel.wire.codes import FEATURES, Code, Feature
from tunnel.wire.events import (
    Event,
    StreamOpened,
)
from tunnel.wire.frames import ControlFrame, Frame, Limits, Opened
from tunnel.wire.payload import Outgoing
from tunnel.wire.session import Session, Settings

ID = b"S" * 16
TARGET = "tcp:127.0.0.1:49152"
WINDOW = 4 * MIB


class Remote:
    """The other end of ``session``: sends the frames of a test, with correct sequence numbers."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._numbers = itertools.count()

    def says(self, *said: Frame) -> list[Event]:
        return [event for frame in said for event in self.session.receive(frame, self._number(frame))]

    def _number(self, frame: Frame) -> int:
        return next(self._numbers) if isinstance(frame, ControlFrame) else 0


def make(
    settings: Settings | None = None,
    peer: Limits | None = None,
    *,
    initiator: bool = True,
    features: Feature = FEATURES,
) -> Session:
    grants = peer or Limits(256, 1024)
    session = Session(ID, settings or Settings(), grants, initiator=initiator, features=features)
    session.recovery.attach(1)
    return session


def opened(
    settings: Settings | None = None, *, limit: int = WINDOW, count: int = 1
) -> tuple[Session, Remote]:
    """Return an initiator whose streams 1, 3, ... the peer has opened."""
    session = make(settings)
    peer = Remote(session)
    for number in range(1, 2 * count, 2):
        assert session.open(TARGET) == number
        assert peer.says(Opened(number, limit)) == [StreamOpened(number)]
    session.control()
    return session, peer


def span(outgoing: Outgoing | None) -> tuple[int, int, int] | None:
    """Return stream, start and stop of a DATA frame."""
    if outgoing is None:
        return None
    header = parse_header(outgoing.header)
    assert header.length == len(outgoing.piece)
    return header.stream, header.offset, header.offset + header.length


def said(session: Session) -> list[Frame]:
    return frames(session.control())


def fault(act: object, *args: object) -> Code:
    assert callable(act)

    def do() -> None:
        reported = act(*args)
        if isinstance(reported, Iterator):
            list(reported)

    with pytest.raises(ProtocolError) as caught:
        do()
    return caught.value.code
