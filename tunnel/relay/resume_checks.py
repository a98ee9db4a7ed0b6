"""What the first frame of a later lane, and the answer to it, must say: SPEC.md section 8, Resuming."""

from __future__ import annotations

from tunnel.errors import ProtocolError
from tunnel.wire.codes import Code, Feature
from tunnel.wire.frames import Replace, Resume, Resumed
from tunnel.wire.session import Session


def check(session: Session | None, claim: Resume, features: Feature, newest: int, none: str) -> Session:
    """Return the session that a peer's ``claim`` is about; ``newest`` is the highest epoch so far.

    Raises ProtocolError when there is none, with ``none`` as its text, or when the claim cannot be.
    """
    if session is None or claim.session != session.id or session.initiator:
        raise ProtocolError(Code.SESSION_UNKNOWN, none)
    if (Feature.ROTATE if isinstance(claim, Replace) else Feature.RESUME) not in features:
        raise ProtocolError(Code.HANDSHAKE, f"{claim.type.name}, which this session has not agreed on")
    if claim.epoch <= newest or claim.replaces >= claim.epoch:
        detail = f"lane {claim.epoch} in place of {claim.replaces}, the newest is {newest}"
        raise ProtocolError(Code.HANDSHAKE, f"{claim.type.name} with impossible lane numbers: {detail}")
    return session


def check_answer(session: Session | None, answer: Resumed, epoch: int, replaces: int) -> None:
    """Raise ProtocolError unless ``answer`` is the one to what was asked: for ``epoch``, ``replaces``."""
    if session is None or answer.session != session.id:
        raise ProtocolError(Code.SESSION_UNKNOWN, "RESUMED for another session")
    if (answer.epoch, answer.replaces) != (epoch, replaces):
        detail = f"lane {answer.epoch} in place of {answer.replaces}"
        raise ProtocolError(
            Code.HANDSHAKE, f"RESUMED for {detail}, asked for was {epoch} in place of {replaces}"
        )
