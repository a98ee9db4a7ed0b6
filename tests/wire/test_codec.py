"""Frames on the wire: each one byte for byte, and every invalid header or payload."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.wire import only_faults
from tunnel.errors import ProtocolError
from tunnel.wire.codec import MAX_STREAMS, data_header, encode, parse, parse_header, shorten
from tunnel.wire.codes import HEADER_SIZE, MAX_CONTROL, MAX_DATA, MAX_TEXT, Code, Feature, FrameType
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
    Ping,
    Pong,
    Position,
    Probe,
    Refused,
    Replace,
    Reset,
    Resume,
    Resumed,
    Retire,
    Retired,
    Rotate,
    Verdict,
    Welcome,
)

SESSION, INSTANCE = bytes(range(16)), bytes(range(16, 32))
RESUME = Resume(SESSION, 3, 2, 7, 1031, (Position(1, 300, 200, 400), Position(2, 0, 0, 50)))

U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
STREAM = st.integers(1, 2**32 - 1)
ID = st.binary(min_size=16, max_size=16)
TEXT = st.text(st.characters(codec="utf-8"), max_size=200)
REASON = TEXT.filter(str.isprintable)
CODE = st.sampled_from(Code)
U32_FROM_1 = st.integers(1, 2**32 - 1)
ALONE = U64.map(lambda bits: Feature(bits & ~Feature.WORKERS.value))
SHARED = U64.map(lambda bits: Feature(bits | Feature.WORKERS.value))
LIMITS = st.builds(Limits, streams=U32, control=U32_FROM_1)
POSITIONS = st.lists(st.builds(Position, U32, U64, U64, U64), max_size=5).map(tuple)
VERSIONS = st.tuples(U16, U16).map(sorted)

each_frame: st.SearchStrategy[Frame] = st.one_of(
    st.builds(lambda v, *rest: Hello(*v, *rest), VERSIONS, ALONE, ID, ID, LIMITS),
    st.builds(lambda v, *rest: Hello(*v, *rest), VERSIONS, SHARED, ID, ID, LIMITS, U32_FROM_1, U32),
    st.builds(Welcome, U16, ALONE, ID, ID, LIMITS),
    st.builds(Welcome, U16, SHARED, ID, ID, LIMITS, U32_FROM_1),
    st.builds(Resume, ID, U32, U32, U64, U64, POSITIONS),
    st.builds(Resumed, ID, U32, U32, U64, U64, POSITIONS),
    st.builds(Replace, ID, U32, U32, U64, U64, POSITIONS),
    st.sampled_from([Retire(), Retired(), Rotate()]),
    st.builds(GoAway, CODE, REASON),
    st.builds(Notice, CODE, REASON),
    st.builds(Ping, U64),
    st.builds(Pong, U64),
    st.builds(Probe, TEXT.filter(bool)),
    st.builds(Verdict, CODE, REASON),
    st.builds(Open, STREAM, U64, TEXT.filter(bool)),
    st.builds(Opened, STREAM, U64),
    st.builds(Refused, STREAM, CODE, REASON),
    st.builds(Fin, STREAM, U64),
    st.builds(Delivered, STREAM, U64),
    st.builds(Reset, STREAM, CODE, REASON),
    st.builds(Credit, U32, U64, U64),
)


def header(
    kind: int, stream: int = 0, length: int = 0, offset: int = 0, *, flags: int = 0, reserved: int = 0
) -> bytes:
    return struct.pack("!BBHIIQ", kind, flags, reserved, stream, length, offset)


def read(raw: bytes) -> Frame:
    head = parse_header(raw[:HEADER_SIZE])
    assert len(raw) == HEADER_SIZE + head.length
    return parse(head, raw[HEADER_SIZE:])


@given(each_frame, U64)
def test_encoded_frames_are_parsed_back(frame: Frame, sequence: int) -> None:
    raw = encode(frame, sequence)
    assert read(raw) == frame
    if frame.type in SEQUENCED:
        assert parse_header(raw).offset == sequence


@given(st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE), st.binary(max_size=300))
def test_any_bytes_are_a_frame_or_a_protocol_error(head: bytes, payload: bytes) -> None:
    with only_faults(Code.FRAME_TYPE, Code.FRAME_SIZE, Code.PROTOCOL):
        found = parse_header(head)
        if found.type is not FrameType.DATA and found.length == len(payload):
            parse(found, payload)


@given(st.sampled_from([kind for kind in FrameType if kind is not FrameType.DATA]), st.binary(max_size=200))
def test_any_payload_is_a_frame_or_a_protocol_error(kind: FrameType, payload: bytes) -> None:
    stream = 0 if kind < FrameType.OPEN else 1
    with only_faults(Code.FRAME_SIZE, Code.PROTOCOL):
        assert read(header(kind, stream, len(payload)) + payload).type is kind


@pytest.mark.parametrize(
    ("frame", "head", "payload"),
    [
        (
            Hello(1, 2, Feature.RESUME, SESSION, INSTANCE, Limits(256, 1024, 4)),
            "01 00 0000 00000000 00000038 0000000000000000",
            "0001 0002 0000000000000001" + SESSION.hex() + INSTANCE.hex() + "00000100 00000400 00000004",
        ),
        (
            Welcome(1, Feature.NONE, SESSION, INSTANCE, Limits(1, 2)),
            "02 00 0000 00000000 00000036 0000000000000000",
            "0001 0000000000000000" + SESSION.hex() + INSTANCE.hex() + "00000001 00000002 00000001",
        ),
        (
            RESUME,
            "03 00 0000 00000000 00000064 0000000000000000",
            SESSION.hex() + "00000003 00000002 0000000000000007 0000000000000407 00000002"
            "00000001 000000000000012c 00000000000000c8 0000000000000190"
            "00000002 0000000000000000 0000000000000000 0000000000000032",
        ),
        (
            Resumed(SESSION, 3, 2, 0, 1024, ()),
            "04 00 0000 00000000 0000002c 0000000000000000",
            SESSION.hex() + "00000003 00000002 0000000000000000 0000000000000400 00000000",
        ),
        (
            Replace(SESSION, 3, 2, 0, 1024, ()),
            "0a 00 0000 00000000 0000002c 0000000000000000",
            SESSION.hex() + "00000003 00000002 0000000000000000 0000000000000400 00000000",
        ),
        (Retire(), "0b 00 0000 00000000 00000000 0000000000000000", ""),
        (Retired(), "0c 00 0000 00000000 00000000 0000000000000000", ""),
        (Rotate(), "0d 00 0000 00000000 00000000 0000000000000000", ""),
        (Notice(Code.COLLISION, "two"), "0e 00 0000 00000000 00000005 0000000000000000", "0009 74776f"),
        (GoAway(Code.NONE, "bye"), "05 00 0000 00000000 00000005 0000000000000000", "0000 627965"),
        (Ping(258), "06 00 0000 00000000 00000000 0000000000000102", ""),
        (Pong(258), "07 00 0000 00000000 00000000 0000000000000102", ""),
        (
            Open(1, 1 << 22, "tcp:é"),
            "10 00 0000 00000001 0000000e 0000000000000009",
            "0000000000400000 7463703a c3a9",
        ),
        (Opened(1, 5), "11 00 0000 00000001 00000008 0000000000000009", "0000000000000005"),
        (
            Refused(1, Code.TARGET_FORBIDDEN, ""),
            "12 00 0000 00000001 00000002 0000000000000009",
            "0020",
        ),
        (Fin(1, 5), "14 00 0000 00000001 00000008 0000000000000009", "0000000000000005"),
        (Delivered(1, 5), "15 00 0000 00000001 00000008 0000000000000009", "0000000000000005"),
        (Reset(1, Code.LOCAL_RESET, "x"), "16 00 0000 00000001 00000003 0000000000000009", "0022 78"),
        (Credit(1, 3, 5), "17 00 0000 00000001 00000008 0000000000000003", "0000000000000005"),
        (Credit(0, 3, 5), "17 00 0000 00000000 00000008 0000000000000003", "0000000000000005"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_each_frame_byte_for_byte(frame: Frame, head: str, payload: str) -> None:
    assert encode(frame, sequence=9) == bytes.fromhex(head) + bytes.fromhex(payload)


def test_a_data_header() -> None:
    raw = data_header(stream=7, offset=1 << 40, length=MAX_DATA)
    assert raw == bytes.fromhex("13 00 0000 00000007 00100000 0000010000000000")


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        (FrameType.HELLO, 56, MAX_CONTROL),
        (FrameType.WELCOME, 54, MAX_CONTROL),
        (FrameType.RESUME, 44, MAX_CONTROL),
        (FrameType.RESUMED, 44, MAX_CONTROL),
        (FrameType.GOAWAY, 2, 2 + MAX_TEXT),
        (FrameType.NOTICE, 2, 2 + MAX_TEXT),
        (FrameType.PING, 0, 0),
        (FrameType.PONG, 0, 0),
        (FrameType.REPLACE, 44, MAX_CONTROL),
        (FrameType.RETIRE, 0, 0),
        (FrameType.RETIRED, 0, 0),
        (FrameType.ROTATE, 0, 0),
        (FrameType.OPEN, 9, 8 + MAX_TEXT),
        (FrameType.OPENED, 8, 8),
        (FrameType.REFUSED, 2, 2 + MAX_TEXT),
        (FrameType.DATA, 1, MAX_DATA),
        (FrameType.FIN, 8, 8),
        (FrameType.DELIVERED, 8, 8),
        (FrameType.RESET, 2, 2 + MAX_TEXT),
        (FrameType.CREDIT, 8, 8),
    ],
)
def test_a_length_is_checked_before_anything_is_read(kind: FrameType, low: int, high: int) -> None:
    stream = 0 if kind < FrameType.OPEN else 1
    for length in (low, high):
        assert parse_header(header(kind, stream, length)).length == length
    for length in {max(0, low - 1), high + 1, 2**32 - 1} - {low}:
        with pytest.raises(ProtocolError, match=f"must be {low} to {high}") as caught:
            parse_header(header(kind, stream, length))
        assert caught.value.code is Code.FRAME_SIZE


def test_an_unknown_type_ends_the_lane() -> None:
    for number in set(range(256)) - set(FrameType):
        with pytest.raises(ProtocolError, match=f"frame type {number} ") as caught:
            parse_header(header(number))
        assert caught.value.code is Code.FRAME_TYPE


@pytest.mark.parametrize(("flags", "reserved"), [(1, 0), (128, 0), (0, 1), (0, 0xFFFF)])
def test_flags_and_reserved_bits_are_not_ignored(flags: int, reserved: int) -> None:
    """Otherwise a later version could not define them."""
    with pytest.raises(ProtocolError) as caught:
        parse_header(header(FrameType.PING, flags=flags, reserved=reserved))
    assert caught.value.code is Code.PROTOCOL


@pytest.mark.parametrize("kind", [kind for kind in FrameType if kind is not FrameType.CREDIT])
def test_a_frame_concerns_a_stream_or_the_lane(kind: FrameType) -> None:
    wrong = 1 if kind < FrameType.OPEN else 0
    for length in (0, 8, 9, 52):
        with pytest.raises(ProtocolError):
            parse_header(header(kind, wrong, length))


@pytest.mark.parametrize(
    ("frame", "fault"),
    [
        (Hello(2, 1, Feature.NONE, SESSION, INSTANCE, Limits(1, 1)), "versions 2 to 1"),
        (Hello(1, 1, Feature.NONE, SESSION, INSTANCE, Limits(1, 0)), "HELLO grants 0 control frames"),
        (Hello(1, 1, Feature.NONE, SESSION, INSTANCE, Limits(1, 1, 0)), "1 control frames, 0 lanes"),
        (Welcome(1, Feature.NONE, SESSION, INSTANCE, Limits(1, 0)), "WELCOME grants 0 control frames"),
        (Hello(1, 1, Feature.WORKERS, SESSION, INSTANCE, Limits(1, 1), 0), "HELLO allows 0 sessions"),
        (Welcome(1, Feature.WORKERS, SESSION, INSTANCE, Limits(1, 1), 0), "WELCOME allows 0 sessions"),
    ],
)
def test_invalid_offers_and_answers(frame: Frame, fault: str) -> None:
    with pytest.raises(ProtocolError, match=fault):
        read(encode(frame))


@pytest.mark.parametrize(
    "frame",
    [
        Hello(1, 1, Feature.RESUME, SESSION, INSTANCE, Limits(1, 1)),
        Welcome(1, Feature.RESUME, SESSION, INSTANCE, Limits(1, 1)),
    ],
)
def test_a_later_version_may_append_fields_to_hello_and_welcome(frame: Frame) -> None:
    raw = encode(frame)
    longer = header(frame.type, 0, len(raw) - HEADER_SIZE + 7) + raw[HEADER_SIZE:] + b"\xffnewer\x00"
    assert read(longer) == frame


def test_fields_of_hello_and_welcome_with_workers() -> None:
    """Without the feature they are fields of a later version, which are ignored."""
    greetings: list[tuple[Frame, bytes]] = [
        (
            Hello(1, 1, Feature.WORKERS, SESSION, INSTANCE, Limits(1, 1), 3, 2),
            bytes([0, 0, 0, 3, 0, 0, 0, 2]),
        ),
        (Welcome(1, Feature.WORKERS, SESSION, INSTANCE, Limits(1, 1), 3), bytes([0, 0, 0, 3])),
    ]
    for frame, fields in greetings:
        raw = encode(frame)
        assert raw.endswith(fields)
        assert read(raw) == frame
        payload = raw[HEADER_SIZE:-1]
        with pytest.raises(ProtocolError) as caught:
            read(header(frame.type, 0, len(payload)) + payload)
        assert caught.value.code is Code.FRAME_SIZE


def test_unknown_features_are_kept() -> None:
    everything = Feature(2**64 - 1)
    assert read(encode(Hello(1, 1, everything, SESSION, INSTANCE, Limits(1, 1)))) == Hello(
        1, 1, everything, SESSION, INSTANCE, Limits(1, 1)
    )


@pytest.mark.parametrize("rows", [-28, -1, 1, 28])
def test_positions_must_be_as_many_as_announced(rows: int) -> None:
    payload = encode(RESUME)[HEADER_SIZE:]
    payload = payload + bytes(rows) if rows > 0 else payload[:rows]
    with pytest.raises(ProtocolError) as caught:
        read(header(FrameType.RESUME, 0, len(payload)) + payload)
    assert caught.value.code is Code.FRAME_SIZE


def test_one_resume_can_name_every_stream() -> None:
    rows = tuple(Position(number, 0, 0, 0) for number in range(1, 2 * MAX_STREAMS + 1))
    frame = Resume(SESSION, 2, 1, 0, 1, rows)
    assert read(encode(frame)) == frame


@pytest.mark.parametrize(
    ("kind", "stream", "head"),
    [
        (FrameType.OPEN, 1, bytes(8)),
        (FrameType.REFUSED, 1, bytes(2)),
        (FrameType.RESET, 1, bytes(2)),
        (FrameType.GOAWAY, 0, bytes(2)),
    ],
)
def test_text_must_be_utf8(kind: FrameType, stream: int, head: bytes) -> None:
    payload = head + b"ok \xc3("
    with pytest.raises(ProtocolError, match=f"{kind.name} contains text that is not valid UTF-8") as caught:
        read(header(kind, stream, len(payload)) + payload)
    assert caught.value.code is Code.PROTOCOL


@pytest.mark.parametrize("number", [14, 31, 38, 0xFFFF])
def test_a_code_of_a_later_version_counts_as_protocol(number: int) -> None:
    payload = struct.pack("!H", number) + b"why"
    assert read(header(FrameType.GOAWAY, 0, 5) + payload) == GoAway(Code.PROTOCOL, "why")
    assert read(header(FrameType.RESET, 3, 5) + payload) == Reset(3, Code.PROTOCOL, "why")


@pytest.mark.parametrize("make", [GoAway, Notice, Verdict, partial(Refused, 1), partial(Reset, 1)])
def test_a_reason_cannot_drive_a_terminal(make: Callable[[Code, str], Frame]) -> None:
    frame = read(encode(make(Code.INTERNAL, "naïve \x1b[2Jroot\r\n# \u202e\x9b1A\x00 end")))
    assert isinstance(frame, GoAway | Notice | Verdict | Refused | Reset)
    assert frame.reason == "naïve \ufffd[2Jroot\ufffd\ufffd# \ufffd\ufffd1A\ufffd end"


def test_a_long_reason_is_cut_between_characters() -> None:
    reason = "é" * MAX_TEXT
    assert shorten(reason) == b"\xc3\xa9" * (MAX_TEXT // 2)
    assert shorten("x" + reason) == b"x" + b"\xc3\xa9" * ((MAX_TEXT - 1) // 2)
    frame = read(encode(Reset(1, Code.INTERNAL, reason)))
    assert isinstance(frame, Reset)
    assert frame.reason == "é" * (MAX_TEXT // 2)


def test_a_reason_with_undecodable_bytes_can_be_sent() -> None:
    """Python's surrogate escapes, as in file names, are not valid UTF-8."""
    assert shorten("/run/\udcff.sock") == b"/run/?.sock"
