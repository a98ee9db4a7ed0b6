"""The frames and their fields (SPEC.md section 4). ``codec`` encodes and parses them.

A frame is a frozen dataclass. Types in ``SEQUENCED`` belong to the *control channel*: their header's offset
is a sequence number, they are kept until acknowledged and sent again on a new lane, like a stream's bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from tunnel.wire.codes import Code, Feature, FrameType

ID_SIZE = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """What a side grants the other: open streams, unacknowledged sequenced frames, and lanes."""

    streams: int
    control: int
    lanes: int = 1


@dataclass(frozen=True, slots=True)
class Hello:
    """The initiator's first frame: versions from ``lowest`` to ``highest``, and a new session.

    ``sessions`` is how many the initiator allows with this peer; ``number`` is the number of this one among
    its own, 0 for the primary one. Both are sent with the feature WORKERS only.
    """

    type: ClassVar[FrameType] = FrameType.HELLO
    lowest: int
    highest: int
    features: Feature
    session: bytes
    instance: bytes
    limits: Limits
    sessions: int = 1
    number: int = 0


@dataclass(frozen=True, slots=True)
class Welcome:
    """The acceptor's answer to HELLO: the selected version and features; ``sessions`` as in HELLO."""

    type: ClassVar[FrameType] = FrameType.WELCOME
    version: int
    features: Feature
    session: bytes
    instance: bytes
    limits: Limits
    sessions: int = 1


@dataclass(frozen=True, slots=True)
class Position:
    """How far the sender of RESUME has received one stream, in absolute byte offsets."""

    stream: int
    received: int
    delivered: int
    limit: int


@dataclass(frozen=True, slots=True)
class Resume:
    """The first frame of a lane that joins an existing session in place of lane ``replaces``."""

    type: ClassVar[FrameType] = FrameType.RESUME
    session: bytes
    epoch: int
    replaces: int
    control_received: int
    control_limit: int
    positions: tuple[Position, ...]


@dataclass(frozen=True, slots=True)
class Resumed(Resume):
    """The acceptor's answer to RESUME, with its own positions."""

    type: ClassVar[FrameType] = FrameType.RESUMED


@dataclass(frozen=True, slots=True)
class Replace(Resume):
    """Like Resume, for a lane ``replaces`` that is up, and is retired once this one is attached."""

    type: ClassVar[FrameType] = FrameType.REPLACE


@dataclass(frozen=True, slots=True)
class Retire:
    """The sender sends nothing more of the session on this lane."""

    type: ClassVar[FrameType] = FrameType.RETIRE


@dataclass(frozen=True, slots=True)
class Retired:
    """The answer to RETIRE: everything that was sent on this lane has arrived."""

    type: ClassVar[FrameType] = FrameType.RETIRED


@dataclass(frozen=True, slots=True)
class Rotate:
    """A request to the initiator to replace this lane."""

    type: ClassVar[FrameType] = FrameType.ROTATE


@dataclass(frozen=True, slots=True)
class GoAway:
    """The link ends now. What was not delivered is lost, and both sides reset what is still open."""

    type: ClassVar[FrameType] = FrameType.GOAWAY
    code: Code
    reason: str


@dataclass(frozen=True, slots=True)
class Notice:
    """A text for the peer's log; it changes nothing."""

    type: ClassVar[FrameType] = FrameType.NOTICE
    code: Code
    reason: str


@dataclass(frozen=True, slots=True)
class Ping:
    """A request for an immediate PONG with the same token."""

    type: ClassVar[FrameType] = FrameType.PING
    token: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a PING."""

    type: ClassVar[FrameType] = FrameType.PONG
    token: int


@dataclass(frozen=True, slots=True)
class Probe:
    """Asks whether an OPEN of ``target`` would be allowed; nothing is dialled."""

    type: ClassVar[FrameType] = FrameType.PROBE
    target: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to the oldest PROBE: NONE, or the code of the REFUSED that an OPEN would get."""

    type: ClassVar[FrameType] = FrameType.VERDICT
    code: Code
    reason: str


@dataclass(frozen=True, slots=True)
class Open:
    """A new stream to ``target``; the acceptor may send up to byte ``limit`` on it once it is OPENED."""

    type: ClassVar[FrameType] = FrameType.OPEN
    stream: int
    limit: int
    target: str


@dataclass(frozen=True, slots=True)
class Opened:
    """The target is connected; the opener may send up to byte ``limit``."""

    type: ClassVar[FrameType] = FrameType.OPENED
    stream: int
    limit: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The stream was not opened; ``code`` and ``reason`` give the cause."""

    type: ClassVar[FrameType] = FrameType.REFUSED
    stream: int
    code: Code
    reason: str


@dataclass(frozen=True, slots=True)
class Data:
    """``length`` payload bytes of a stream follow, the first of them at byte ``offset``."""

    type: ClassVar[FrameType] = FrameType.DATA
    stream: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Fin:
    """This direction ends at byte ``final``: no byte at or after it exists."""

    type: ClassVar[FrameType] = FrameType.FIN
    stream: int
    final: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """The answer to FIN: every byte up to ``final``, and the end, were passed to the local socket."""

    type: ClassVar[FrameType] = FrameType.DELIVERED
    stream: int
    final: int


@dataclass(frozen=True, slots=True)
class Reset:
    """Both directions of the stream end abruptly."""

    type: ClassVar[FrameType] = FrameType.RESET
    stream: int
    code: Code
    reason: str


@dataclass(frozen=True, slots=True)
class Credit:
    """Bytes below ``delivered`` are in the local socket; the peer may send up to ``limit``.

    On stream 0 the same for the control channel: sequence numbers instead of bytes.
    """

    type: ClassVar[FrameType] = FrameType.CREDIT
    stream: int
    delivered: int
    limit: int


StreamFrame: TypeAlias = Open | Opened | Refused | Fin | Delivered | Reset
ControlFrame: TypeAlias = Probe | Verdict | StreamFrame
RotationFrame: TypeAlias = Retire | Retired | Rotate
LaneFrame: TypeAlias = Hello | Welcome | Resume | Resumed | GoAway | Notice | Ping | Pong | RotationFrame
Frame: TypeAlias = LaneFrame | Data | Credit | ControlFrame

SEQUENCED = frozenset(
    {
        FrameType.PROBE,
        FrameType.VERDICT,
        FrameType.OPEN,
        FrameType.OPENED,
        FrameType.REFUSED,
        FrameType.FIN,
        FrameType.DELIVERED,
        FrameType.RESET,
    }
)
