"""The tables: what they list happens, nothing else does, and every state can be reached and left."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from itertools import product

import pytest

from tunnel.errors import MisuseError, ProtocolError
from tunnel.wire.codes import Code, FrameType
from tunnel.wire.frames import SEQUENCED
from tunnel.wire.states import (
    LANE,
    PHASE,
    RECEIVING,
    SENDING,
    Call,
    Input,
    LaneState,
    Receiving,
    SendState,
    StreamPhase,
    step,
)

Table = Mapping[tuple[Enum, Input], Enum]

TABLES: list[tuple[Table, type[Enum], set[Enum]]] = [
    (LANE, LaneState, {LaneState.AWAIT_FIRST, LaneState.AWAIT_WELCOME, LaneState.AWAIT_RESUMED}),  # type: ignore[list-item]  # Mapping's key type is invariant
    (PHASE, StreamPhase, {StreamPhase.OPENING, StreamPhase.DIALLING}),  # type: ignore[list-item]  # as above
    (SENDING, SendState, {SendState.READY}),  # type: ignore[list-item]  # as above
    (RECEIVING, Receiving, {Receiving.READY}),  # type: ignore[list-item]  # as above
]
INPUTS: list[Input] = [*FrameType, *Call]

each_table = pytest.mark.parametrize(
    ("table", "states", "first"), TABLES, ids=["lane", "phase", "sending", "receiving"]
)


@each_table
def test_a_pair_that_is_not_in_the_table_is_an_error(
    table: Table, states: type[Enum], first: set[Enum]
) -> None:
    for state, signal in product(states, INPUTS):
        if (state, signal) in table:
            assert step(table, state, signal, Code.STREAM_STATE) is table[state, signal]
            continue
        fault = ProtocolError if isinstance(signal, FrameType) else MisuseError
        with pytest.raises(fault, match=f"{signal.name} while {state.name}") as caught:
            step(table, state, signal, Code.STREAM_STATE)
        assert caught.value.code is Code.STREAM_STATE


@each_table
def test_every_state_can_be_reached(table: Table, states: type[Enum], first: set[Enum]) -> None:
    reached, before = set(first), set[Enum]()
    while reached != before:
        before = set(reached)
        reached |= {after for (state, _), after in table.items() if state in reached}
    assert reached == set(states)


@pytest.mark.parametrize("closed", [LaneState.CLOSED, LaneState.LOST, StreamPhase.CLOSED])
def test_nothing_happens_after_the_end(closed: Enum) -> None:
    assert not [pair for table, _, _ in TABLES for pair in table if pair[0] is closed]


GREETINGS = (
    FrameType.HELLO,
    FrameType.WELCOME,
    FrameType.RESUME,
    FrameType.REPLACE,
    FrameType.RESUMED,
)


def test_every_frame_is_listed() -> None:
    assert {signal for _, signal in LANE if isinstance(signal, FrameType)} == set(FrameType)


def test_every_call_is_listed() -> None:
    named = {signal for table, _, _ in TABLES for _, signal in table if isinstance(signal, Call)}
    assert named == set(Call)


def test_a_frame_of_a_stream_changes_its_phase_unless_it_creates_it() -> None:
    of_streams = {signal for _, signal in PHASE if isinstance(signal, FrameType)}
    questions = {FrameType.PROBE, FrameType.VERDICT}
    assert of_streams == SEQUENCED - questions - {FrameType.OPEN} | {FrameType.DATA, FrameType.CREDIT}


def test_no_stream_before_the_lane_is_attached() -> None:
    session = {LaneState.ANSWERED, LaneState.ATTACHED, LaneState.RETIRING}
    early = {signal for state, signal in LANE if state not in session and isinstance(signal, FrameType)}
    assert early == {*GREETINGS, FrameType.GOAWAY}


def test_no_stream_on_a_lane_that_the_peer_retired() -> None:
    late = {signal for state, signal in LANE if state is LaneState.RETIRING}
    assert late == {FrameType.PING, FrameType.PONG, FrameType.RETIRED, FrameType.GOAWAY}


@pytest.mark.parametrize("kind", GREETINGS)
def test_a_second_handshake_frame_is_an_error(kind: FrameType) -> None:
    with pytest.raises(ProtocolError) as caught:
        step(LANE, LaneState.ATTACHED, kind, Code.HANDSHAKE)
    assert caught.value.code is Code.HANDSHAKE


def test_a_direction_ends_only_once() -> None:
    with pytest.raises(ProtocolError):
        step(RECEIVING, Receiving.ENDING, FrameType.FIN, Code.STREAM_STATE)
    with pytest.raises(MisuseError):
        step(SENDING, SendState.FINISHED, Call.FINISH, Code.STREAM_STATE)
    with pytest.raises(ProtocolError):
        step(SENDING, SendState.READY, FrameType.DELIVERED, Code.STREAM_STATE)
