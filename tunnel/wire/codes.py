"""Numbers on the wire: frame types, error codes, features and limits (SPEC.md sections 3, 9 and 10)."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from tunnel.units import KIB, MIB

ALPN = "mtunnel/1"
"""The TLS application protocol (RFC 7301); its number is the major version of the protocol."""

VERSION = 1
"""The highest and, so far, only version supported in HELLO."""


HEADER_SIZE = 20
MAX_DATA = MIB
"""Most payload bytes in one DATA frame."""
MAX_CONTROL = 64 * KIB
"""Most payload bytes in any other frame."""
MAX_TEXT = 1 * KIB
"""Most UTF-8 bytes in a target or a reason."""
MAX_STREAM_ID = 0xFFFF_FFFF
MAX_OFFSET = 0xFFFF_FFFF_FFFF_FFFF


class FrameType(IntEnum):
    """The type of a frame. Numbers below 16 concern a lane or the link, the others one stream."""

    HELLO = 1
    WELCOME = 2
    RESUME = 3
    RESUMED = 4
    GOAWAY = 5
    PING = 6
    PONG = 7
    PROBE = 8
    VERDICT = 9
    REPLACE = 10
    RETIRE = 11
    RETIRED = 12
    ROTATE = 13
    NOTICE = 14
    OPEN = 16
    OPENED = 17
    REFUSED = 18
    DATA = 19
    FIN = 20
    DELIVERED = 21
    RESET = 22
    CREDIT = 23


class Code(IntEnum):
    """The cause of the end of a link, lane or stream. Below 32: GOAWAY. From 32 on: REFUSED and RESET."""

    NONE = 0  #: no error: an orderly end, or a target that would be allowed
    PROTOCOL = 1  #: a malformed frame, or one that is not allowed here
    VERSION = 2  #: no common version
    FRAME_TYPE = 3  #: unknown frame type
    FRAME_SIZE = 4  #: a length that is invalid for this type
    FLOW_CONTROL = 5  #: bytes or frames outside a window, or an impossible acknowledgement
    STREAM_STATE = 6  #: the state of the stream does not allow this frame
    STREAM_LIMIT = 7  #: more streams than were allowed
    HANDSHAKE = 8  #: HELLO missing, repeated, or out of place
    COLLISION = 9  #: another connection with this peer is already in use
    SESSION_UNKNOWN = 10  #: RESUME names a session that does not exist, or is another peer's
    TIMEOUT = 11  #: nothing was received from the peer for too long
    INTERNAL = 12  #: an internal error of the sender
    CREDENTIALS = 13  #: a certificate of one side is no longer valid
    TARGET_FORBIDDEN = 32  #: the allow list does not name the target
    TARGET_UNREACHABLE = 33  #: the target did not accept a connection in time
    LOCAL_RESET = 34  #: the hypervisor's socket was reset
    LINK_LOST = 35  #: the link could not be resumed in time
    DRAINING = 36  #: the host accepts no new streams
    IDLE_HALF_CLOSED = 37  #: one direction ended, and the other was idle for too long


class Feature(IntFlag):
    """Optional parts of the protocol; a session uses those that both sides offered."""

    NONE = 0
    RESUME = 1  #: a lost lane may be replaced
    PROBE = 2  #: a side may ask whether a target would be allowed
    ROTATE = 4  #: a lane that is up may be replaced without loss
    NOTICE = 8  #: a side may send text for the other's log and status
    WORKERS = 16  #: two hosts may have additional sessions beside the primary one


FEATURES = Feature.RESUME | Feature.PROBE | Feature.ROTATE | Feature.NOTICE | Feature.WORKERS
"""The features that this implementation offers."""
