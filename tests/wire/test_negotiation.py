"""Negotiation of a version and of features."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunnel.errors import ProtocolError
from tunnel.wire.codes import FEATURES, VERSION, Code, Feature
from tunnel.wire.frames import Hello, Limits
from tunnel.wire.negotiation import check_welcome, hello, welcome

SESSION, INSTANCE, OTHER = b"S" * 16, b"I" * 16, b"A" * 16
LIMITS = Limits(256, 1024)
OFFER = hello(SESSION, INSTANCE, LIMITS)


def test_two_of_the_same_version_agree_on_everything() -> None:
    answer = welcome(OFFER, OTHER, Limits(1, 2))
    assert (answer.version, answer.features) == (VERSION, FEATURES)
    assert (answer.session, answer.instance, answer.limits) == (SESSION, OTHER, Limits(1, 2))
    check_welcome(OFFER, answer)


@pytest.mark.parametrize(("lowest", "highest"), [(0, 1), (1, 1), (1, 65535), (0, 65535)])
def test_a_range_that_holds_our_version(lowest: int, highest: int) -> None:
    offer = replace(OFFER, lowest=lowest, highest=highest)
    assert welcome(offer, OTHER, LIMITS).version == VERSION


@pytest.mark.parametrize(("lowest", "highest"), [(0, 0), (2, 2), (2, 65535)])
def test_no_version_in_common(lowest: int, highest: int) -> None:
    offer = replace(OFFER, lowest=lowest, highest=highest)
    with pytest.raises(
        ProtocolError, match=f"initiator offers {lowest} to {highest}, the acceptor supports 1"
    ) as caught:
        welcome(offer, OTHER, LIMITS)
    assert caught.value.code is Code.VERSION


@pytest.mark.parametrize("more", [32, 1 << 40, (1 << 64) - 32])
def test_features_of_a_later_version_are_not_selected(more: int) -> None:
    offer = replace(OFFER, features=Feature(more | Feature.RESUME))
    assert welcome(offer, OTHER, LIMITS).features == Feature.RESUME


def test_a_feature_that_one_side_lacks_is_not_used() -> None:
    offer = replace(OFFER, features=Feature.NONE)
    answer = welcome(offer, OTHER, LIMITS)
    assert answer.features == Feature.NONE
    check_welcome(offer, answer)


def refused(offer: Hello, **changes: object) -> Code:
    """Change fields of a valid answer; return the code that the initiator then raises."""
    answer = replace(welcome(OFFER, OTHER, LIMITS), **changes)  # type: ignore[arg-type]  # checked by the dataclass
    with pytest.raises(ProtocolError) as caught:
        check_welcome(offer, answer)
    return caught.value.code


def test_an_answer_for_another_session() -> None:
    assert refused(OFFER, session=OTHER) is Code.HANDSHAKE


@pytest.mark.parametrize("version", [0, 2, 65535])
def test_a_version_that_was_not_offered(version: int) -> None:
    assert refused(OFFER, version=version) is Code.VERSION


@pytest.mark.parametrize("features", [32, 33, 1 << 63, (1 << 64) - 1])
def test_features_that_were_not_offered(features: int) -> None:
    """Also those that this version does not define."""
    assert refused(OFFER, features=Feature(features)) is Code.HANDSHAKE


def test_features_that_were_not_offered_although_we_support_them() -> None:
    assert refused(replace(OFFER, features=Feature.NONE), features=Feature.RESUME) is Code.HANDSHAKE


def test_each_side_sends_how_many_sessions_it_allows() -> None:
    offer = hello(SESSION, INSTANCE, LIMITS, 3, 2)
    assert (offer.sessions, offer.number) == (3, 2)
    answer = welcome(offer, OTHER, LIMITS, 4)
    assert answer.sessions == 4
    check_welcome(offer, answer)


def test_a_peer_without_workers_is_allowed_one_session() -> None:
    offer = replace(OFFER, features=FEATURES & ~Feature.WORKERS)
    assert welcome(offer, OTHER, LIMITS, 4).sessions == 1


def test_an_additional_session_needs_the_feature() -> None:
    """An older release treats it as the primary one."""
    offer = hello(SESSION, INSTANCE, LIMITS, 3, 2)
    assert refused(offer, features=FEATURES & ~Feature.WORKERS) is Code.HANDSHAKE
