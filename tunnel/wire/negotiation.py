"""Agreeing on a version and on features: the acceptor chooses from what HELLO offers."""

from __future__ import annotations

from tunnel.errors import ProtocolError
from tunnel.wire.codes import FEATURES, VERSION, Code, Feature
from tunnel.wire.frames import Hello, Limits, Welcome


def hello(session: bytes, instance: bytes, limits: Limits, sessions: int = 1, number: int = 0) -> Hello:
    """Offer everything that we can. ``session`` and ``instance`` are 16 random bytes each.

    ``sessions`` is how many we have room for with this peer, ``number`` which of ours this is.
    """
    return Hello(VERSION, VERSION, FEATURES, session, instance, limits, sessions, number)


def welcome(offer: Hello, instance: bytes, limits: Limits, sessions: int = 1) -> Welcome:
    """Answer an offer. Raises ProtocolError when there is no version in common."""
    if not offer.lowest <= VERSION <= offer.highest:
        detail = f"offered were {offer.lowest} to {offer.highest}, and the acceptor speaks {VERSION}"
        raise ProtocolError(Code.VERSION, f"no common version: {detail}")
    features = offer.features & FEATURES
    granted = sessions if Feature.WORKERS in features else 1
    return Welcome(VERSION, features, offer.session, instance, limits, granted)


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
    if offer.number and Feature.WORKERS not in answer.features:
        raise ProtocolError(Code.HANDSHAKE, "WELCOME to a further session, of a peer that has but one")
