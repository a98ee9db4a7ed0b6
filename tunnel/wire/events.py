"""What a session tells its owner after it took a frame in. Every event of a stream names it."""

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
    """The peer dialled the target of a stream of ours: it may carry bytes now."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamRefused:
    """The peer did not open our stream, which is gone: reset the local socket."""

    stream: int
    code: Code
    reason: str


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The peer's direction ended and all of it is delivered: shut the local socket's write side down."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamReleased:
    """All that we sent before the offset ``delivered`` is delivered at the peer: it need not be kept."""

    stream: int
    delivered: int


@dataclass(frozen=True, slots=True)
class StreamConfirmed:
    """Our direction ended and all of it is delivered at the peer; StreamClosed alone says so as well."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The peer gave the stream up, which is gone: reset the local socket."""

    stream: int
    code: Code
    reason: str


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """Both directions ended and were delivered, the stream is gone: close the local socket."""

    stream: int


@dataclass(frozen=True, slots=True)
class TargetProbed:
    """The peer asks whether ``target`` would be admitted: ``judge`` it, and dial nothing."""

    target: str


@dataclass(frozen=True, slots=True)
class TargetJudged:
    """The peer's word on the oldest target that we asked about: NONE, or why it would be refused."""

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
