"""The state machines of a lane and of a stream, as tables. A transition that is not listed is an error.

A stream has three machines: its *phase* (whether the stream exists), and one for each direction. A pair
(state, input) that is missing from a table is the peer's error (ProtocolError) when the input came from the
wire, ours (MisuseError) when it came from a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import TypeVar

from tunnel.errors import MisuseError, ProtocolError
from tunnel.wire.codes import Code, FrameType


class _State(Enum):
    """A state. Members are hashed by identity, in C: the tables are looked up several times per frame."""

    __hash__ = object.__hash__


class LaneState(_State):
    """What a lane may receive next."""

    AWAIT_FIRST = auto()  # acceptor: expects HELLO, RESUME or REPLACE
    AWAIT_WELCOME = auto()  # initiator of a session
    AWAIT_RESUMED = auto()  # initiator, replacing a lost lane
    DECIDING = auto()  # acceptor: first frame received, answer not sent yet
    ANSWERED = auto()  # acceptor: answer sent; not known yet whether the initiator received it
    ATTACHED = auto()  # on both sides the lane belongs to a session, and carries its frames
    RETIRING = auto()  # the peer sends nothing more of the session on it
    CLOSED = auto()  # by GOAWAY: on an attached lane it ends the session
    LOST = auto()  # by GOAWAY of an initiator without an answer: the session continues without the lane


class StreamPhase(_State):
    """Whether a stream exists on both sides."""

    OPENING = auto()  # we sent OPEN
    DIALLING = auto()  # the peer sent OPEN, the target is not connected yet
    OPEN = auto()
    CLOSED = auto()


class SendState(_State):
    """Our direction of a stream."""

    READY = auto()
    FINISHED = auto()  # FIN sent, not everything is delivered
    DONE = auto()


class Receiving(_State):
    """The peer's direction of a stream."""

    READY = auto()
    ENDING = auto()  # FIN received, not everything is delivered
    DONE = auto()


class Call(_State):
    """Operations of our own side on a stream, and, on a lane that it accepted, ANSWER."""

    SEND = auto()
    FINISH = auto()
    DELIVER = auto()
    DELIVER_ALL = auto()
    ACCEPT = auto()
    REFUSE = auto()
    RESET = auto()
    END = auto()  # both directions are DONE
    ANSWER = auto()  # send WELCOME or RESUMED


Input = FrameType | Call
State = TypeVar("State", bound=Enum)

_SESSION_FRAMES = (
    FrameType.PING,
    FrameType.PONG,
    FrameType.ROTATE,
    FrameType.RETIRED,
    FrameType.NOTICE,
    FrameType.PROBE,
    FrameType.VERDICT,
    FrameType.OPEN,
    FrameType.OPENED,
    FrameType.REFUSED,
    FrameType.DATA,
    FrameType.FIN,
    FrameType.DELIVERED,
    FrameType.RESET,
    FrameType.CREDIT,
)

_OPEN_SIGNALS: tuple[Input, ...] = (
    FrameType.DATA,
    FrameType.FIN,
    FrameType.DELIVERED,
    FrameType.CREDIT,
    Call.SEND,
    Call.FINISH,
    Call.DELIVER,
)

LANE: Mapping[tuple[LaneState, Input], LaneState] = {
    (LaneState.AWAIT_FIRST, FrameType.HELLO): LaneState.DECIDING,
    (LaneState.AWAIT_FIRST, FrameType.RESUME): LaneState.DECIDING,
    (LaneState.AWAIT_FIRST, FrameType.REPLACE): LaneState.DECIDING,
    (LaneState.AWAIT_FIRST, FrameType.GOAWAY): LaneState.CLOSED,
    (LaneState.AWAIT_WELCOME, FrameType.WELCOME): LaneState.ATTACHED,
    (LaneState.AWAIT_WELCOME, FrameType.GOAWAY): LaneState.CLOSED,
    (LaneState.AWAIT_RESUMED, FrameType.RESUMED): LaneState.ATTACHED,
    (LaneState.AWAIT_RESUMED, FrameType.GOAWAY): LaneState.CLOSED,
    (LaneState.DECIDING, FrameType.GOAWAY): LaneState.CLOSED,
    (LaneState.DECIDING, Call.ANSWER): LaneState.ANSWERED,
    **{(LaneState.ANSWERED, frame): LaneState.ATTACHED for frame in _SESSION_FRAMES},
    (LaneState.ANSWERED, FrameType.RETIRE): LaneState.RETIRING,
    (LaneState.ANSWERED, FrameType.GOAWAY): LaneState.LOST,
    **{(LaneState.ATTACHED, frame): LaneState.ATTACHED for frame in _SESSION_FRAMES},
    (LaneState.ATTACHED, FrameType.RETIRE): LaneState.RETIRING,
    (LaneState.ATTACHED, FrameType.GOAWAY): LaneState.CLOSED,
    **{
        (LaneState.RETIRING, frame): LaneState.RETIRING
        for frame in (FrameType.PING, FrameType.PONG, FrameType.RETIRED)
    },
    (LaneState.RETIRING, FrameType.GOAWAY): LaneState.CLOSED,
}

PHASE: Mapping[tuple[StreamPhase, Input], StreamPhase] = {
    (StreamPhase.OPENING, FrameType.OPENED): StreamPhase.OPEN,
    (StreamPhase.OPENING, FrameType.DATA): StreamPhase.OPENING,  # it overtook OPENED on another lane
    (StreamPhase.OPENING, Call.DELIVER): StreamPhase.OPENING,
    (StreamPhase.OPENING, FrameType.REFUSED): StreamPhase.CLOSED,
    (StreamPhase.OPENING, FrameType.RESET): StreamPhase.CLOSED,
    (StreamPhase.OPENING, Call.RESET): StreamPhase.CLOSED,
    (StreamPhase.DIALLING, Call.ACCEPT): StreamPhase.OPEN,
    (StreamPhase.DIALLING, Call.REFUSE): StreamPhase.CLOSED,
    (StreamPhase.DIALLING, FrameType.RESET): StreamPhase.CLOSED,
    **{(StreamPhase.OPEN, signal): StreamPhase.OPEN for signal in _OPEN_SIGNALS},
    (StreamPhase.OPEN, FrameType.RESET): StreamPhase.CLOSED,
    (StreamPhase.OPEN, Call.RESET): StreamPhase.CLOSED,
    (StreamPhase.OPEN, Call.END): StreamPhase.CLOSED,
}

SENDING: Mapping[tuple[SendState, Input], SendState] = {
    (SendState.READY, Call.SEND): SendState.READY,
    (SendState.READY, FrameType.CREDIT): SendState.READY,
    (SendState.READY, Call.FINISH): SendState.FINISHED,
    (SendState.FINISHED, FrameType.CREDIT): SendState.FINISHED,
    (SendState.FINISHED, FrameType.DELIVERED): SendState.DONE,
    (SendState.DONE, FrameType.CREDIT): SendState.DONE,  # overtaken by DELIVERED on another lane
}

RECEIVING: Mapping[tuple[Receiving, Input], Receiving] = {
    (Receiving.READY, Call.DELIVER): Receiving.READY,
    (Receiving.READY, FrameType.DATA): Receiving.READY,
    (Receiving.READY, FrameType.FIN): Receiving.ENDING,
    (Receiving.ENDING, FrameType.DATA): Receiving.ENDING,
    (Receiving.ENDING, Call.DELIVER): Receiving.ENDING,
    (Receiving.ENDING, Call.DELIVER_ALL): Receiving.DONE,
    (Receiving.DONE, FrameType.DATA): Receiving.DONE,  # a duplicate, sent again on another lane
}


def step(table: Mapping[tuple[State, Input], State], state: State, signal: Input, code: Code) -> State:
    """Return the state after ``signal``. Raises ProtocolError or MisuseError for a pair not in the table."""
    after = table.get((state, signal))
    if after is not None:
        return after
    text = f"{signal.name} while {state.name}"
    raise ProtocolError(code, text) if isinstance(signal, FrameType) else MisuseError(code, text)
