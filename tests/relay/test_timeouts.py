"""Timeouts of links: those that must be shorter than others."""

from __future__ import annotations

from tunnel.relay.timeouts import Timeouts
from tunnel.wire.keepalive import TIMEOUT
from tunnel.wire.membership import MembershipPlan

DEFAULTS = Timeouts()


def test_a_duplicate_is_judged_before_its_peer_gives_up() -> None:
    assert DEFAULTS.duplicate < DEFAULTS.answer


def test_a_stream_may_still_use_the_primary_session_when_an_additional_one_fails() -> None:
    assert DEFAULTS.additional + DEFAULTS.worker < DEFAULTS.link


def test_the_acceptor_outlasts_an_attempt_that_the_initiator_began_in_time() -> None:
    plan = MembershipPlan("hosta", "hostb")
    assert 0 < plan.resume_grace < DEFAULTS.answer < TIMEOUT < plan.resume_window
