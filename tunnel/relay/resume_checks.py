"""Checks of RESUME, REPLACE and RESUMED: SPEC.md section 8, Resuming."""

from __future__ import annotations

from tunnel.errors import ProtocolError
from tunnel.wire.codes import Code, Feature
from tunnel.wire.frames import Replace, Resume, Resumed
from tunnel.wire.session import Session


def check(session: Session | None, claim: Resume, features: Feature, newest: int, none: str) -> Session:
    """Return the session that a peer's ``claim`` refers to; ``newest`` is the highest epoch so far.

    Raises ProtocolError if there is none, with ``none`` as its text, or if the claim is invalid.
    """
    if session is None or claim.session != session.id or session.initiator:
        raise ProtocolError(Code.SESSION_UNKNOWN, none)
    if (Feature.ROTATE if isinstance(claim, Replace) else Feature.RESUME) not in features:
        raise ProtocolError(Code.HANDSHAKE, f"{claim.type.name} was not negotiated for this session")
    if claim.epoch <= newest or claim.replaces >= claim.epoch:
        detail = f"lane {claim.epoch} replaces {claim.replaces}, the newest is {newest}"
        raise ProtocolError(Code.HANDSHAKE, f"{claim.type.name} with invalid lane numbers: {detail}")
    return session


def check_answer(session: Session | None, answer: Resumed, epoch: int, replaces: int) -> None:
    """Raise ProtocolError unless ``answer`` is for the request with ``epoch`` and ``replaces``."""
    if session is None or answer.session != session.id:
        raise ProtocolError(Code.SESSION_UNKNOWN, "RESUMED for another session")
    if (answer.epoch, answer.replaces) != (epoch, replaces):
        detail = f"lane {answer.epoch} replaces {answer.replaces}"
        raise ProtocolError(
            Code.HANDSHAKE, f"RESUMED does not match: {detail}, requested was {epoch} replaces {replaces}"
        )
