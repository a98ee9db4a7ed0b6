"""What a session reports to its owner after it processed a frame. Every stream event names the stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from tunnel.wire.codes import Code


@dataclass(frozen=True, slots=True)
class StreamRequested:
    """The peer opened a stream: dial ``target``, then ``accept`` or ``refuse``."""

    stream: int
    target: str


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer connected our stream to its target: it may carry bytes now."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamRefused:
    """The peer refused our stream, which is closed: reset the local socket."""

    stream: int
    code: Code
    reason: str


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The peer's direction ended and is fully delivered: shut down the local socket for writing."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamReleased:
    """The peer delivered all that we sent before the offset ``delivered``: it need not be kept."""

    stream: int
    delivered: int


@dataclass(frozen=True, slots=True)
class StreamConfirmed:
    """Our direction ended and the peer delivered all of it; StreamClosed implies it."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The peer reset the stream, which is closed: reset the local socket."""

    stream: int
    code: Code
    reason: str


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """Both directions ended and were delivered, the stream is closed: close the local socket."""

    stream: int


@dataclass(frozen=True, slots=True)
class TargetProbed:
    """The peer asks whether ``target`` would be allowed: answer with ``judge``, and dial nothing."""

    target: str


@dataclass(frozen=True, slots=True)
class TargetJudged:
    """The peer's answer to our oldest PROBE: NONE, or why the target would be refused."""

    code: Code
    reason: str


Event: TypeAlias = (
    StreamRequested
    | StreamOpened
    | StreamRefused
    | StreamEnded
    | StreamReleased
    | StreamConfirmed
    | StreamReset
    | StreamClosed
    | TargetProbed
    | TargetJudged
)
