"""SPEC.md matches the code: its tables, its layouts, and its example, byte for byte."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import pytest

import tunnel.wire
from tests.support.wire import frames
from tunnel.wire import codes, control_channel, probes, session, stream, window
from tunnel.wire.codec import _LENGTHS, MAX_STREAMS, encode
from tunnel.wire.codes import HEADER_SIZE, Code, Feature, FrameType
from tunnel.wire.events import StreamClosed, StreamConfirmed, StreamEnded, StreamOpened, StreamRequested
from tunnel.wire.frames import (
    SEQUENCED,
    Credit,
    Delivered,
    Fin,
    Frame,
    GoAway,
    Hello,
    Limits,
    Notice,
    Open,
    Opened,
    Position,
    Probe,
    Refused,
    Replace,
    Reset,
    Resume,
    Resumed,
    Verdict,
    Welcome,
)
from tunnel.wire.negotiation import check_welcome, hello, welcome
from tunnel.wire.payload import Outgoing
from tunnel.wire.session import DEFAULT_LIMITS, Session, Settings
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
)

SPEC = (Path(tunnel.wire.__file__).parent / "SPEC.md").read_text()

Row = dict[str, str]


def tables(text: str) -> list[list[Row]]:
    """Return every table in ``text``, row by row, by column title."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in block.splitlines()]
        found.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    return found


def section(title: str) -> str:
    """Return everything under the heading that begins so, up to the next one of its level."""
    level, _, _ = title.partition(" ")
    start = SPEC.index(f"\n{title}") + 1
    return SPEC[start : SPEC.find(f"\n{level} ", start)]


def table(title: str, number: int = 0) -> list[Row]:
    return tables(section(title))[number]


# Numbers.


def test_frame_types() -> None:
    rows = table("## 3.", 1)
    assert {(int(row["number"]), row["frame"]) for row in rows} == {
        (kind.value, kind.name) for kind in FrameType
    }
    for row in rows:
        kind = FrameType[row["frame"]]
        assert (int(row["least length"]), int(row["most length"])) == _LENGTHS[kind]
        assert (row["sequenced"] == "yes") == (kind in SEQUENCED)
        assert (row["offset is"] == "sequence number") == (kind in SEQUENCED)
        assert (row["stream"] == "no") == (kind < FrameType.OPEN)


def test_codes() -> None:
    assert {(int(row["number"]), row["code"]) for row in table("## 10.")} == {(c.value, c.name) for c in Code}


def test_features() -> None:
    named = {(1 << int(row["bit"]), row["feature"]) for row in table("## 9.")}
    assert named == {(feature.value, feature.name) for feature in Feature if feature}


def test_limits() -> None:
    known = {
        **vars(codes),
        **vars(control_channel),
        **vars(window),
        **vars(probes),
        **vars(session),
        **vars(stream),
        "MAX_STREAMS": MAX_STREAMS,
    }
    known["version"] = codes.VERSION
    for row in table("## 9.", 1):
        assert int(row["value"]) == known[row["limit"]], row["limit"]


def test_alpn_name() -> None:
    assert f"ALPN `{codes.ALPN}`" in section("## 2.")


# States.

STATES: Mapping[str, tuple[Mapping[tuple[Enum, Input], Enum], type[Enum]]] = {
    "PHASE": (PHASE, StreamPhase),  # type: ignore[dict-item]  # Mapping's key type is invariant
    "SENDING": (SENDING, SendState),  # type: ignore[dict-item]  # as above
    "RECEIVING": (RECEIVING, Receiving),  # type: ignore[dict-item]  # as above
    "LANE": (LANE, LaneState),  # type: ignore[dict-item]  # as above
}


def named_input(text: str) -> Input:
    return Call[text.removeprefix("call:")] if text.startswith("call:") else FrameType[text]


@pytest.mark.parametrize("name", STATES)
def test_states(name: str) -> None:
    written, states = STATES[name]
    (rows,) = tables(SPEC[SPEC.index(f"<!-- table: {name} -->") :])[:1]
    read = {
        (states[row["state"]], named_input(signal)): states[row["next"]]
        for row in rows
        for signal in row["input"].split(", ")
    }
    assert read == written
    assert sum(len(row["input"].split(", ")) for row in rows) == len(read), "an input is listed twice"


# Layouts.

ID, OTHER = bytes(range(16)), bytes(range(100, 116))
WHY = "why"
SAMPLES: list[tuple[str, Frame]] = [
    ("### HELLO", Hello(1, 2, Feature(3 << 40), ID, OTHER, Limits(0x01020304, 0x05060708, 0x090A0B0C))),
    ("### WELCOME", Welcome(0x0102, Feature(3 << 40), ID, OTHER, Limits(0x01020304, 0x05060708, 0x090A0B0C))),
    ("### RESUME,", Resume(ID, 0x01020304, 0x05060708, 1 << 40, 1 << 50, ())),
    ("### RESUME,", Resumed(ID, 0x01020304, 0x05060708, 1 << 40, 1 << 50, ())),
    ("### RESUME,", Replace(ID, 0x01020304, 0x05060708, 1 << 40, 1 << 50, ())),
    ("### GOAWAY", GoAway(Code.VERSION, WHY)),
    ("### NOTICE", Notice(Code.COLLISION, WHY)),
    ("### PROBE", Probe(WHY)),
    ("### VERDICT", Verdict(Code.DRAINING, WHY)),
    ("### OPEN\n", Open(1, 1 << 40, WHY)),
    ("### OPENED", Opened(1, 1 << 40)),
    ("### REFUSED,", Refused(1, Code.DRAINING, WHY)),
    ("### REFUSED,", Reset(1, Code.DRAINING, WHY)),
    ("### FIN,", Fin(1, 1 << 40)),
    ("### FIN,", Delivered(1, 1 << 40)),
    ("### CREDIT", Credit(1, 5, 1 << 40)),
]


def raw(value: object, size: int | None) -> bytes:
    if isinstance(value, int):
        assert size is not None
        return value.to_bytes(size, "big")
    return value.encode() if isinstance(value, str) else bytes(value)  # type: ignore[call-overload]  # bytes or ()


@pytest.mark.parametrize(("title", "frame"), SAMPLES, ids=lambda value: type(value).__name__)
def test_layouts(title: str, frame: Frame) -> None:
    payload, position = encode(frame)[HEADER_SIZE:], 0
    for row in table(title):
        size = None if row["size"] == "*" else int(row["size"])
        value = 0 if row["field"] == "count" else attrgetter(row["field"])(frame)
        assert int(row["offset"]) == position
        found = payload[position:] if size is None else payload[position : position + size]
        assert found == raw(value, size), row["field"]
        position += len(found)
    assert position == len(payload)


@pytest.mark.parametrize(
    ("title", "frame"),
    [
        ("### HELLO", Hello(1, 2, Feature.WORKERS, ID, OTHER, Limits(1, 2, 3), 0x01020304, 0x05060708)),
        ("### WELCOME", Welcome(1, Feature.WORKERS, ID, OTHER, Limits(1, 2, 3), 0x01020304)),
    ],
)
def test_fields_that_workers_adds_to_hello_and_welcome(title: str, frame: Frame) -> None:
    rows, payload = table(title, 1), encode(frame)[HEADER_SIZE:]
    position = int(rows[0]["offset"])
    for row in rows:
        assert int(row["offset"]) == position
        found = payload[position : position + int(row["size"])]
        assert found == raw(attrgetter(row["field"])(frame), int(row["size"])), row["field"]
        position += len(found)
    assert position == len(payload)


def test_layout_of_a_position() -> None:
    position = Position(0x01020304, 1 << 40, 1 << 30, 1 << 50)
    payload = encode(Resume(ID, 2, 1, 0, 1, (position,)))[HEADER_SIZE + 44 :]
    fields = [raw(getattr(position, row["field"]), int(row["size"])) for row in table("### RESUME,", 1)]
    assert b"".join(fields) == payload


def test_layout_of_the_header() -> None:
    values = {
        "type": FrameType.CREDIT.value,
        "flags": 0,
        "reserved": 0,
        "stream": 77,
        "length": 8,
        "offset": 1 << 40,
    }
    rows = table("## 3.")
    header = b"".join(raw(values[row["field"]], int(row["size"])) for row in rows)
    assert header == encode(Credit(77, 1 << 40, 1 << 41))[:HEADER_SIZE]
    assert [int(row["offset"]) for row in rows] == [0, 1, 2, 4, 8, 12]


def test_every_frame_has_a_section() -> None:
    titles = " ".join(re.findall(r"^### (.*)", SPEC, re.MULTILINE)).replace(",", " ").split()
    assert {*titles, "DATA"} == {kind.name for kind in FrameType}


# The example.


def trace() -> list[tuple[str, bytes]]:
    """Return the messages of the example: sender and bytes; ("lane", number) where a lane begins."""
    (block,) = re.findall(r"```trace\n(.*?)```", SPEC, re.DOTALL)
    lines = [line.split(";")[0].split(maxsplit=1) for line in block.splitlines()]
    turns = []
    for who, group in groupby(lines, key=lambda line: line[0]):
        turns.append((who, b"".join(bytes.fromhex(said) for _, said in group)))
    return turns


def spoken(outgoing: Outgoing | None) -> bytes:
    assert outgoing is not None
    assert isinstance(outgoing.piece.payload, bytes)
    return outgoing.header + outgoing.piece.payload


def test_the_example() -> None:
    """Two sessions exchange exactly these messages."""
    first, second = b"\xaa" * 16, b"\1" * 16
    data = b"QEVM\0\0\0\3"
    offer = hello(first, second, DEFAULT_LIMITS)
    answer = welcome(offer, b"\2" * 16, DEFAULT_LIMITS)
    check_welcome(offer, answer)
    a = Session(first, Settings(), answer.limits, initiator=True)
    b = Session(first, Settings(), offer.limits, initiator=False)
    a.recovery.attach(1)
    b.recovery.attach(1)
    said = [("lane", b"\1"), (">", encode(offer)), ("<", encode(answer))]

    a.open("tcp:127.0.0.1:49152")
    said.append((">", a.control()))
    assert hear(b, said) == [StreamRequested(1, "tcp:127.0.0.1:49152")]
    b.accept(1)
    said.append(("<", b.control()))
    assert hear(a, said) == [StreamOpened(1)]
    lost = spoken(a.send(1, data, lane=1))
    a.finish(1)
    said.append((">", lost + a.control()))

    a.recovery.lost(1)
    b.recovery.lost(1)
    claim, reply = a.recovery.resume(2, 1), b.recovery.resumed(2, 1)
    said += [("lane", b"\2"), (">", encode(claim)), ("<", encode(reply))]
    b.recovery.rejoin(claim)
    a.recovery.rejoin(reply)
    said.append((">", a.control()))
    assert hear(b, said) == []
    said[-1] = (">", said[-1][1] + spoken(a.recovery.next(2)))
    b.data(1, 0, data)
    assert b.delivered(1, 8, now=0.0) == [StreamEnded(1)]
    b.finish(1)
    said.append(("<", b.control()))
    assert hear(a, said) == [StreamConfirmed(1), StreamEnded(1), StreamClosed(1)]
    said.append((">", a.control()))
    assert hear(b, said) == [StreamClosed(1)]
    b.flush_credits()
    said.append(("<", b.control()))
    said.append((">", encode(GoAway(Code.NONE, "done"))))
    assert said == trace()


def hear(listener: Session, said: list[tuple[str, bytes]]) -> list[object]:
    """Let ``listener`` process the last message."""
    heard: list[object] = []
    for number, frame in numbered(said[-1][1]):
        heard += listener.receive(frame, number)
    return heard


def numbered(control_frames: bytes) -> list[tuple[int, Frame]]:
    """Return frames with the offset field of their headers."""
    found = []
    for frame in frames(control_frames):
        size = len(encode(frame))
        found.append((int.from_bytes(control_frames[12:20], "big"), frame))
        control_frames = control_frames[size:]
    return found
