"""NOTICE of the protocol: text that one host sends for the log of the other. It changes no state.

Its code is the subject; NONE marks information rather than a problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from tunnel.errors import ProtocolError
from tunnel.lanes.lane import Lane
from tunnel.relay.incidents import IncidentKind
from tunnel.wire.codec import encode
from tunnel.wire.codes import Code, Feature
from tunnel.wire.frames import Notice


def tell(lanes: Iterable[Lane], features: Feature, code: Code, reason: str) -> None:
    """Send NOTICE on the first of ``lanes``, if the peer supports it."""
    for lane in lanes if Feature.NOTICE in features else ():
        lane.send_control(encode(Notice(code, reason)))
        lane.flush()
        return


def heard(
    notice: Notice,
    peer: str,
    features: Feature,
    log: structlog.typing.FilteringBoundLogger,
    note: Callable[[IncidentKind, str], None],
) -> None:
    """Log a NOTICE of the peer; problems go to ``note``, which also records them. Raises ProtocolError."""
    if Feature.NOTICE not in features:
        raise ProtocolError(Code.PROTOCOL, "NOTICE was not negotiated for this session")
    reason = f"{peer} reports: {notice.reason}"
    if notice.code is Code.NONE:
        log.info(IncidentKind.TOLD_BY_PEER.value, reason=reason)
    else:
        note(IncidentKind.TOLD_BY_PEER, reason)
