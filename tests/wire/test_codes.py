"""The numbers on the wire must never change their meaning: SPEC.md is checked against them too."""

from __future__ import annotations

import pytest

from tunnel.errors import ProtocolError
from tunnel.wire.codec import encode, parse, parse_header
from tunnel.wire.codes import ALPN, FEATURES, VERSION, Code, Feature, FrameType
from tunnel.wire.frames import SEQUENCED, Reset


def test_the_numbers_of_version_1() -> None:
    features = Feature.RESUME | Feature.PROBE | Feature.ROTATE | Feature.NOTICE | Feature.WORKERS
    assert ("mtunnel/1", 1, features) == (ALPN, VERSION, FEATURES)
    lanes = ["HELLO", "WELCOME", "RESUME", "RESUMED", "GOAWAY", "PING", "PONG", "PROBE", "VERDICT"]
    lanes += ["REPLACE", "RETIRE", "RETIRED", "ROTATE", "NOTICE"]
    streams = ["OPEN", "OPENED", "REFUSED", "DATA", "FIN", "DELIVERED", "RESET", "CREDIT"]
    numbers = {
        **dict(zip(lanes, range(1, 15), strict=True)),
        **dict(zip(streams, range(16, 24), strict=True)),
    }
    assert {kind.name: kind.value for kind in FrameType} == numbers


def test_frames_of_streams_are_numbered_from_16() -> None:
    assert {kind for kind in SEQUENCED if kind < 16} == {FrameType.PROBE, FrameType.VERDICT}
    assert {kind for kind in FrameType if kind >= 16} - SEQUENCED == {FrameType.DATA, FrameType.CREDIT}


def test_zero_is_no_frame() -> None:
    with pytest.raises(ProtocolError):
        parse_header(bytes(20))


@pytest.mark.parametrize("code", Code)
def test_every_code_crosses_the_wire(code: Code) -> None:
    raw = encode(Reset(1, code, "why"))
    assert parse(parse_header(raw), raw[20:]) == Reset(1, code, "why")


@pytest.mark.parametrize("code", Code)
def test_an_error_has_its_code(code: Code) -> None:
    error = ProtocolError(code, "what happened")
    assert (error.code, str(error)) == (code, f"what happened [{code.name}]")
