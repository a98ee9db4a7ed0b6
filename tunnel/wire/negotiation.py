"""Negotiation of version and features: the acceptor selects from what HELLO offers."""

from __future__ import annotations

from tunnel.errors import ProtocolError
from tunnel.wire.codes import FEATURES, VERSION, Code, Feature
from tunnel.wire.frames import Hello, Limits, Welcome


def hello(session: bytes, instance: bytes, limits: Limits, sessions: int = 1, number: int = 0) -> Hello:
    """Return an offer of all supported features. ``session`` and ``instance`` are 16 random bytes each.

    ``sessions`` is how many we allow with this peer, ``number`` is the number of this one among ours.
    """
    return Hello(VERSION, VERSION, FEATURES, session, instance, limits, sessions, number)


def welcome(offer: Hello, instance: bytes, limits: Limits, sessions: int = 1) -> Welcome:
    """Return the answer to an offer. Raises ProtocolError when there is no common version."""
    if not offer.lowest <= VERSION <= offer.highest:
        detail = f"the initiator offers {offer.lowest} to {offer.highest}, the acceptor supports {VERSION}"
        raise ProtocolError(Code.VERSION, f"no common version: {detail}")
    features = offer.features & FEATURES
    granted = sessions if Feature.WORKERS in features else 1
    return Welcome(VERSION, features, offer.session, instance, limits, granted)


def check_welcome(offer: Hello, answer: Welcome) -> None:
    """Raise ProtocolError when the answer does not match our offer."""
    if answer.session != offer.session:
        raise ProtocolError(Code.HANDSHAKE, "WELCOME is for another session")
    if not offer.lowest <= answer.version <= offer.highest:
        raise ProtocolError(Code.VERSION, f"WELCOME chose version {answer.version}, which was not offered")
    if int(answer.features) & ~int(offer.features):  # as numbers: ~ of an IntFlag drops unknown bits
        raise ProtocolError(
            Code.HANDSHAKE, f"WELCOME chose features that were not offered: {answer.features!r}"
        )
    if offer.number and Feature.WORKERS not in answer.features:
        raise ProtocolError(Code.HANDSHAKE, "WELCOME to an additional session, without the feature WORKERS")
