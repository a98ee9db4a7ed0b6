"""Frames: what they carry (SPEC.md section 4). ``codec`` reads and writes them.

A frame is a frozen dataclass. Types in ``SEQUENCED`` travel on the *control channel*: their header's offset
is a sequence number, they are kept until acknowledged and sent again on a new lane, like a stream's bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from tunnel.wire.codes import Code, Feature, FrameType

ID_SIZE = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """What a side grants the other: streams it may open, sequenced frames it may send unanswered, lanes."""

    streams: int
    control: int
    lanes: int = 1


@dataclass(frozen=True, slots=True)
class Hello:
    """The initiator's first frame: versions from ``lowest`` to ``highest``, and a session to make.

    ``sessions`` is how many the initiator has room for with this peer; ``number`` says which of its own this
    is, 0 for the standing one. Both are sent with the feature WORKERS only.
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
    """The acceptor's answer to HELLO: the version and features chosen; ``sessions`` as in HELLO."""

    type: ClassVar[FrameType] = FrameType.WELCOME
    version: int
    features: Feature
    session: bytes
    instance: bytes
    limits: Limits
    sessions: int = 1


@dataclass(frozen=True, slots=True)
class Position:
    """How far one stream has come at the sender of RESUME: absolute byte offsets of what it takes in."""

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
    """The same for a lane ``replaces`` that lives, and is retired once this one is here."""

    type: ClassVar[FrameType] = FrameType.REPLACE


@dataclass(frozen=True, slots=True)
class Retire:
    """The sender puts nothing more of the session on this lane."""

    type: ClassVar[FrameType] = FrameType.RETIRE


@dataclass(frozen=True, slots=True)
class Retired:
    """Answers RETIRE: everything that was sent on this lane has arrived."""

    type: ClassVar[FrameType] = FrameType.RETIRED


@dataclass(frozen=True, slots=True)
class Rotate:
    """Asks the initiator to replace this lane."""

    type: ClassVar[FrameType] = FrameType.ROTATE


@dataclass(frozen=True, slots=True)
class GoAway:
    """The link ends now. What was not delivered is lost, and both sides reset what is still open."""

    type: ClassVar[FrameType] = FrameType.GOAWAY
    code: Code
    reason: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something for the peer's log: it changes nothing."""

    type: ClassVar[FrameType] = FrameType.NOTICE
    code: Code
    reason: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a PONG with the same token, at once."""

    type: ClassVar[FrameType] = FrameType.PING
    token: int


@dataclass(frozen=True, slots=True)
class Pong:
    """Answers a PING."""

    type: ClassVar[FrameType] = FrameType.PONG
    token: int


@dataclass(frozen=True, slots=True)
class Probe:
    """Asks whether an OPEN of ``target`` would be admitted; nothing is dialled."""

    type: ClassVar[FrameType] = FrameType.PROBE
    target: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Answers the oldest PROBE: NONE, or the code of the REFUSED that an OPEN would get."""

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
    """The target was dialled; the opener may send up to byte ``limit``."""

    type: ClassVar[FrameType] = FrameType.OPENED
    stream: int
    limit: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The stream was not opened, and why."""

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
    """Answers FIN: every byte up to ``final``, and the end, were handed to the local socket."""

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
    """Bytes below ``delivered`` are in the local socket; more may come, up to ``limit``.

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
