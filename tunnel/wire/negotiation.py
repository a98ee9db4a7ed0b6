"""Agreeing on a version and on features: the acceptor chooses from what HELLO offers."""

from __future__ import annotations

from tunnel.errors import ProtocolError
from tunnel.wire.codes import FEATURES, VERSION, Code
from tunnel.wire.frames import Hello, Limits, Welcome


def hello(session: bytes, instance: bytes, limits: Limits) -> Hello:
    """Offer everything that we can. ``session`` and ``instance`` are 16 random bytes each."""
    return Hello(VERSION, VERSION, FEATURES, session, instance, limits)


def welcome(offer: Hello, instance: bytes, limits: Limits) -> Welcome:
    """Answer an offer. Raises ProtocolError when there is no version in common."""
    if not offer.lowest <= VERSION <= offer.highest:
        detail = f"offered were {offer.lowest} to {offer.highest}, and the acceptor speaks {VERSION}"
        raise ProtocolError(Code.VERSION, f"no common version: {detail}")
    return Welcome(VERSION, offer.features & FEATURES, offer.session, instance, limits)


def check_welcome(offer: Hello, answer: Welcome) -> None:
    """Raise ProtocolError when the answer is none to our offer."""
    if answer.session != offer.session:
        raise ProtocolError(Code.HANDSHAKE, "WELCOME names another session")
    if not offer.lowest <= answer.version <= offer.highest:
        raise ProtocolError(Code.VERSION, f"WELCOME chose version {answer.version}, which was not offered")
    if int(answer.features) & ~int(offer.features):  # as numbers: ~ of an IntFlag forgets unknown bits
        raise ProtocolError(
            Code.HANDSHAKE, f"WELCOME chose features that were not offered: {answer.features!r}"
        )
