"""Encoding and parsing of frames (SPEC.md sections 3 and 4).

``encode`` returns a whole frame, except for DATA: there only the header is written here, because the payload
is opaque to the core and may be bytes that never enter the process. ``parse`` reads the payload of any other
frame.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from tunnel.errors import ProtocolError
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
from tunnel.wire.text import printable

HEADER = struct.Struct("!BBHIIQ")  # type, flags, reserved, stream, length, offset
_HELLO = struct.Struct("!HHQ16s16sIII")
_WELCOME = struct.Struct("!HQ16s16sIII")
_MORE = {FrameType.HELLO: struct.Struct("!II"), FrameType.WELCOME: struct.Struct("!I")}  # with WORKERS
_RESUME = struct.Struct("!16sIIQQI")
_POSITION = struct.Struct("!IQQQ")
_U64 = struct.Struct("!Q")
_CODE = struct.Struct("!H")


MAX_STREAMS = (MAX_CONTROL - _RESUME.size) // _POSITION.size // 2
"""Most streams that one side may have open at once: RESUME has to list those of both."""


class Header(NamedTuple):
    """The 20-byte header of every frame. ``length`` is the number of payload bytes that follow."""

    type: FrameType
    stream: int
    length: int
    offset: int


_LENGTHS: dict[FrameType, tuple[int, int]] = {
    FrameType.HELLO: (_HELLO.size, MAX_CONTROL),  # longer: fields of a later version, ignored
    FrameType.WELCOME: (_WELCOME.size, MAX_CONTROL),
    FrameType.RESUME: (_RESUME.size, MAX_CONTROL),
    FrameType.RESUMED: (_RESUME.size, MAX_CONTROL),
    FrameType.GOAWAY: (_CODE.size, _CODE.size + MAX_TEXT),
    FrameType.NOTICE: (_CODE.size, _CODE.size + MAX_TEXT),
    FrameType.PING: (0, 0),
    FrameType.PONG: (0, 0),
    FrameType.PROBE: (1, MAX_TEXT),
    FrameType.VERDICT: (_CODE.size, _CODE.size + MAX_TEXT),
    FrameType.REPLACE: (_RESUME.size, MAX_CONTROL),
    FrameType.RETIRE: (0, 0),
    FrameType.RETIRED: (0, 0),
    FrameType.ROTATE: (0, 0),
    FrameType.OPEN: (_U64.size + 1, _U64.size + MAX_TEXT),
    FrameType.OPENED: (_U64.size, _U64.size),
    FrameType.REFUSED: (_CODE.size, _CODE.size + MAX_TEXT),
    FrameType.DATA: (1, MAX_DATA),
    FrameType.FIN: (_U64.size, _U64.size),
    FrameType.DELIVERED: (_U64.size, _U64.size),
    FrameType.RESET: (_CODE.size, _CODE.size + MAX_TEXT),
    FrameType.CREDIT: (_U64.size, _U64.size),
}


_KINDS = {kind.value: kind for kind in FrameType}  # calling FrameType takes five times as long


def parse_header(data: bytes | bytearray | memoryview) -> Header:
    """Parse the first 20 bytes of ``data``. Raises ProtocolError on an invalid type, length or field."""
    number, flags, reserved, stream, length, offset = HEADER.unpack_from(data)
    kind = _KINDS.get(number)
    if kind is None:
        raise ProtocolError(Code.FRAME_TYPE, f"unknown frame type {number}")
    if flags or reserved:
        raise ProtocolError(Code.PROTOCOL, f"{kind.name} with flags {flags:#x}, reserved {reserved:#x}")
    low, high = _LENGTHS[kind]
    if not low <= length <= high:
        raise ProtocolError(Code.FRAME_SIZE, f"{kind.name} of {length} bytes, must be {low} to {high}")
    if (stream == 0) != (kind < FrameType.OPEN) and kind is not FrameType.CREDIT:
        raise ProtocolError(Code.PROTOCOL, f"{kind.name} on stream {stream}")
    return Header(kind, stream, length, offset)


def data_header(stream: int, offset: int, length: int) -> bytes:
    """Return the header of a DATA frame; its ``length`` payload bytes must follow it on the same lane."""
    return HEADER.pack(FrameType.DATA, 0, 0, stream, length, offset)


def encode(frame: Frame, sequence: int = 0) -> bytes:
    """Return the bytes of a frame. ``sequence`` is its control channel number if it is ``SEQUENCED``."""
    stream, offset, payload = _WRITERS[frame.type](frame)
    if frame.type in SEQUENCED:
        offset = sequence
    return HEADER.pack(frame.type, 0, 0, stream, len(payload), offset) + payload


def parse(header: Header, payload: bytes) -> Frame:
    """Parse the frame after ``header`` (any but DATA). Raises ProtocolError when its fields are invalid."""
    return _READERS[header.type](header, payload)


def shorten(text: str) -> bytes:
    """Return ``text`` as UTF-8, cut at a character boundary so that it fits into a reason."""
    return text.encode("utf-8", "replace")[:MAX_TEXT].decode("utf-8", "ignore").encode()


def _read_text(raw: bytes, what: FrameType) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ProtocolError(Code.PROTOCOL, f"{what.name} contains text that is not valid UTF-8") from None


def _read_reason(raw: bytes, what: FrameType) -> str:
    """Return text for logs and terminals: without characters that could control a terminal."""
    return printable(_read_text(raw[_CODE.size :], what))


def _read_code(raw: bytes) -> Code:
    (number,) = _CODE.unpack_from(raw)
    try:
        return Code(number)
    except ValueError:
        return Code.PROTOCOL  # a code of a later version: the reason is still shown


def _grants(limits: Limits) -> tuple[int, int, int]:
    return limits.streams, limits.control, limits.lanes


def _read_limits(granted: list[int], what: FrameType) -> Limits:
    limits = Limits(*granted)
    if limits.control < 1 or limits.lanes < 1:
        raise ProtocolError(
            Code.PROTOCOL, f"{what.name} grants {limits.control} control frames, {limits.lanes} lanes"
        )
    return limits


def _read_sessions(raw: bytes, size: int, features: int, what: FrameType) -> tuple[int, ...]:
    """Return the fields after the first ``size`` bytes that the feature WORKERS adds; () without it."""
    if not features & Feature.WORKERS:
        return ()
    fields = _MORE[what]
    if len(raw) < size + fields.size:
        raise ProtocolError(Code.FRAME_SIZE, f"{what.name} of {len(raw)} bytes, too short for WORKERS")
    found: tuple[int, ...] = fields.unpack_from(raw, size)
    if not found[0]:
        raise ProtocolError(Code.PROTOCOL, f"{what.name} allows 0 sessions")
    return found


def _write_hello(f: Hello) -> tuple[int, int, bytes]:
    raw = _HELLO.pack(f.lowest, f.highest, f.features, f.session, f.instance, *_grants(f.limits))
    if f.features & Feature.WORKERS:
        raw += _MORE[f.type].pack(f.sessions, f.number)
    return 0, 0, raw


def _read_hello(_: Header, raw: bytes) -> Hello:
    lowest, highest, features, session, instance, *granted = _HELLO.unpack_from(raw)
    if lowest > highest:
        raise ProtocolError(Code.PROTOCOL, f"HELLO with versions {lowest} to {highest}")
    limits = _read_limits(granted, FrameType.HELLO)
    more = _read_sessions(raw, _HELLO.size, features, FrameType.HELLO)
    return Hello(lowest, highest, Feature(features), session, instance, limits, *more)


def _write_welcome(f: Welcome) -> tuple[int, int, bytes]:
    raw = _WELCOME.pack(f.version, f.features, f.session, f.instance, *_grants(f.limits))
    if f.features & Feature.WORKERS:
        raw += _MORE[f.type].pack(f.sessions)
    return 0, 0, raw


def _read_welcome(_: Header, raw: bytes) -> Welcome:
    version, features, session, instance, *granted = _WELCOME.unpack_from(raw)
    limits = _read_limits(granted, FrameType.WELCOME)
    more = _read_sessions(raw, _WELCOME.size, features, FrameType.WELCOME)
    return Welcome(version, Feature(features), session, instance, limits, *more)


def _write_resume(f: Resume) -> tuple[int, int, bytes]:
    head = _RESUME.pack(f.session, f.epoch, f.replaces, f.control_received, f.control_limit, len(f.positions))
    rows = (_POSITION.pack(p.stream, p.received, p.delivered, p.limit) for p in f.positions)
    return 0, 0, head + b"".join(rows)


def _read_resume(header: Header, raw: bytes) -> Resume:
    session, epoch, replaces, received, limit, count = _RESUME.unpack_from(raw)
    rows = raw[_RESUME.size :]
    if len(rows) != count * _POSITION.size:
        raise ProtocolError(
            Code.FRAME_SIZE, f"{header.type.name} announces {count} positions, but its length differs"
        )
    positions = tuple(Position(*row) for row in _POSITION.iter_unpack(rows))
    return _RESUMING[header.type](session, epoch, replaces, received, limit, positions)


_RESUMING: dict[FrameType, type[Resume]] = {kind.type: kind for kind in (Resume, Resumed, Replace)}


def _read_target(header: Header, raw: bytes) -> Open:
    (limit,) = _U64.unpack_from(raw)
    return Open(header.stream, limit, _read_text(raw[_U64.size :], FrameType.OPEN))


def _write_coded(f: Refused | Reset) -> tuple[int, int, bytes]:
    return f.stream, 0, _CODE.pack(f.code) + shorten(f.reason)


def _coded(kind: type[Refused] | type[Reset]) -> Callable[[Header, bytes], Frame]:
    def read(header: Header, raw: bytes) -> Frame:
        return kind(header.stream, _read_code(raw), _read_reason(raw, header.type))

    return read


def _u64(kind: type[Opened] | type[Fin] | type[Delivered]) -> Callable[[Header, bytes], Frame]:
    def read(header: Header, raw: bytes) -> Frame:
        return kind(header.stream, *_U64.unpack(raw))

    return read


_Writer: TypeAlias = Callable[..., tuple[int, int, bytes]]  # of the frame's own class: see encode
_WRITERS: dict[FrameType, _Writer] = {
    FrameType.HELLO: _write_hello,
    FrameType.WELCOME: _write_welcome,
    FrameType.RESUME: _write_resume,
    FrameType.RESUMED: _write_resume,
    FrameType.GOAWAY: lambda f: (0, 0, _CODE.pack(f.code) + shorten(f.reason)),
    FrameType.PING: lambda f: (0, f.token, b""),
    FrameType.PONG: lambda f: (0, f.token, b""),
    FrameType.PROBE: lambda f: (0, 0, f.target.encode()),
    FrameType.VERDICT: lambda f: (0, 0, _CODE.pack(f.code) + shorten(f.reason)),
    FrameType.REPLACE: _write_resume,
    FrameType.RETIRE: lambda _: (0, 0, b""),
    FrameType.RETIRED: lambda _: (0, 0, b""),
    FrameType.ROTATE: lambda _: (0, 0, b""),
    FrameType.NOTICE: lambda f: (0, 0, _CODE.pack(f.code) + shorten(f.reason)),
    FrameType.OPEN: lambda f: (f.stream, 0, _U64.pack(f.limit) + f.target.encode()),
    FrameType.OPENED: lambda f: (f.stream, 0, _U64.pack(f.limit)),
    FrameType.REFUSED: _write_coded,
    FrameType.FIN: lambda f: (f.stream, 0, _U64.pack(f.final)),
    FrameType.DELIVERED: lambda f: (f.stream, 0, _U64.pack(f.final)),
    FrameType.RESET: _write_coded,
    FrameType.CREDIT: lambda f: (f.stream, f.delivered, _U64.pack(f.limit)),
}

_READERS: dict[FrameType, Callable[[Header, bytes], Frame]] = {
    FrameType.HELLO: _read_hello,
    FrameType.WELCOME: _read_welcome,
    FrameType.RESUME: _read_resume,
    FrameType.RESUMED: _read_resume,
    FrameType.GOAWAY: lambda h, raw: GoAway(_read_code(raw), _read_reason(raw, h.type)),
    FrameType.PING: lambda h, _: Ping(h.offset),
    FrameType.PONG: lambda h, _: Pong(h.offset),
    FrameType.PROBE: lambda h, raw: Probe(_read_text(raw, h.type)),
    FrameType.VERDICT: lambda h, raw: Verdict(_read_code(raw), _read_reason(raw, h.type)),
    FrameType.REPLACE: _read_resume,
    FrameType.RETIRE: lambda _, __: Retire(),
    FrameType.RETIRED: lambda _, __: Retired(),
    FrameType.ROTATE: lambda _, __: Rotate(),
    FrameType.NOTICE: lambda h, raw: Notice(_read_code(raw), _read_reason(raw, h.type)),
    FrameType.OPEN: _read_target,
    FrameType.OPENED: _u64(Opened),
    FrameType.REFUSED: _coded(Refused),
    FrameType.FIN: _u64(Fin),
    FrameType.DELIVERED: _u64(Delivered),
    FrameType.RESET: _coded(Reset),
    FrameType.CREDIT: lambda h, raw: Credit(h.stream, h.offset, *_U64.unpack(raw)),
}

assert HEADER.size == HEADER_SIZE  # noqa: S101  compares constants: no peer can cause it
