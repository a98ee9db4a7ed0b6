"""Checks of RESUME, REPLACE and RESUMED, and their error codes."""

from __future__ import annotations

import pytest

from tests.support.sessions import ID, make
from tunnel.errors import ProtocolError
from tunnel.relay.resume_checks import check, check_answer
from tunnel.wire.codes import FEATURES, Code, Feature
from tunnel.wire.frames import Replace, Resume, Resumed

OTHER = b"?" * 16
NONE = "hostb has no such session with hosta"


def claim(epoch: int, replaces: int, session: bytes = ID, kind: type[Resume] = Resume) -> Resume:
    return kind(session, epoch, replaces, 0, 1024, ())


@pytest.mark.parametrize(
    "made",
    [claim(4, 3), claim(4, 0), claim(9, 1), claim(4, 3, kind=Replace)],
    ids=lambda made: made.type.name,
)
def test_valid_claims(made: Resume) -> None:
    session = make(initiator=False)
    assert check(session, made, FEATURES, 3, NONE) is session


@pytest.mark.parametrize(
    ("made", "features", "code"),
    [
        (claim(4, 3, OTHER), FEATURES, Code.SESSION_UNKNOWN),
        (claim(3, 2), FEATURES, Code.HANDSHAKE),
        (claim(4, 4), FEATURES, Code.HANDSHAKE),
        (claim(4, 5), FEATURES, Code.HANDSHAKE),
        (claim(4, 3), Feature.PROBE, Code.HANDSHAKE),
        (claim(4, 3, kind=Replace), Feature.RESUME, Code.HANDSHAKE),
        (claim(3, 2, kind=Replace), FEATURES, Code.HANDSHAKE),
    ],
)
def test_invalid_claims(made: Resume, features: Feature, code: Code) -> None:
    with pytest.raises(ProtocolError) as caught:
        check(make(initiator=False), made, features, 3, NONE)
    assert caught.value.code is code


@pytest.mark.parametrize("initiator", [True, None], ids=["of the initiator", "without a session"])
def test_claim_needs_a_session_and_comes_from_its_initiator(initiator: bool | None) -> None:
    with pytest.raises(ProtocolError) as caught:
        check(None if initiator is None else make(initiator=initiator), claim(4, 3), FEATURES, 3, NONE)
    assert caught.value.code is Code.SESSION_UNKNOWN


def test_answer_must_match_the_request() -> None:
    check_answer(make(), Resumed(ID, 4, 3, 0, 1024, ()), 4, 3)
    for epoch, replaces in ((5, 3), (4, 0)):
        with pytest.raises(ProtocolError, match="requested was") as caught:
            check_answer(make(), Resumed(ID, 4, 3, 0, 1024, ()), epoch, replaces)
        assert caught.value.code is Code.HANDSHAKE
    for session in (None, make()):
        with pytest.raises(ProtocolError, match="another session") as caught:
            check_answer(session, Resumed(OTHER, 4, 3, 0, 1024, ()), 4, 3)
        assert caught.value.code is Code.SESSION_UNKNOWN
