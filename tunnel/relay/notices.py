"""What one host has to say for the log of the other: NOTICE of the protocol, which changes nothing.

Its code is what it is about; NONE is for the record: nothing is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from tunnel.errors import ProtocolError
from tunnel.lanes.lane import Lane
from tunnel.wire.codec import encode
from tunnel.wire.codes import Code, Feature
from tunnel.wire.frames import Notice

TOLD = "told by the peer"
"""The event, and the kind of incident."""


def tell(lanes: Iterable[Lane], features: Feature, code: Code, reason: str) -> None:
    """Let the peer's operator know, if the peer takes notices, on the first of ``lanes``."""
    for lane in lanes if Feature.NOTICE in features else ():
        lane.send_control(encode(Notice(code, reason)))
        lane.flush()
        return


def heard(
    notice: Notice,
    peer: str,
    features: Feature,
    log: structlog.typing.FilteringBoundLogger,
    note: Callable[[str, str], None],
) -> None:
    """Log what the peer says; ``note`` also remembers it, for trouble. Raises ProtocolError."""
    if Feature.NOTICE not in features:
        raise ProtocolError(Code.PROTOCOL, "NOTICE, which this session has not agreed on")
    reason = f"{peer} says: {notice.reason}"
    if notice.code is Code.NONE:
        log.info(TOLD, reason=reason)
    else:
        note(TOLD, reason)
