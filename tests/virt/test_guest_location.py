"""The location follows from the states of both sides; its text claims nothing about unchecked sides."""

from __future__ import annotations

import itertools

import pytest

from tunnel.virt.guest_location import Side, Where, judge, sentence

R, L, H, B, G, U = Side.RUNS, Side.LEAVING, Side.HELD, Side.BROKEN, Side.GONE, Side.UNKNOWN


@pytest.mark.parametrize(
    ("here", "there", "where"),
    [
        (R, G, Where.SOURCE),
        (R, H, Where.SOURCE),
        (R, U, Where.STAYED),
        (R, R, Where.BOTH),
        (L, G, Where.MOVING),
        (L, H, Where.MOVING),
        (L, U, Where.MOVING),
        (L, R, Where.BOTH),
        (G, R, Where.DESTINATION),
        (H, R, Where.DESTINATION),
        (G, U, Where.LEFT),
        (H, U, Where.HALTED),
        (G, G, Where.NEITHER),
        (H, H, Where.NEITHER),
        (U, R, Where.UNKNOWN),
        (U, U, Where.UNKNOWN),
        (B, R, Where.BROKEN),
        (R, B, Where.BROKEN),
        (B, U, Where.BROKEN),
        (U, B, Where.BROKEN),
        (B, G, Where.LOST),
        (G, B, Where.LOST),
    ],
)
def test_two_states_make_one_location(here: Side, there: Side, where: Where) -> None:
    assert judge(here, there) is where


@pytest.mark.parametrize(("here", "there"), list(itertools.product((R, L, H, B, G, U), (R, H, B, G, U))))
def test_text_claims_nothing_about_an_unchecked_side(here: Side, there: Side) -> None:
    words = sentence(judge(here, there), "hosta", "hostb")
    if U in {here, there}:
        assert "nowhere else" not in words
    if L is here:
        assert "still running at" not in words


@pytest.mark.parametrize("where", list(Where))
def test_every_location_has_text_with_and_without_names(where: Where) -> None:
    words, plain = sentence(where, "hosta", "hostb"), sentence(where)
    assert "hosta" in words or "hostb" in words
    assert "host" not in plain
    assert "the source" in plain or "the destination" in plain
    assert ("nowhere else" in words) == (where in {Where.SOURCE, Where.DESTINATION})


@pytest.mark.parametrize("where", [Where.BOTH, Where.BROKEN, Where.HALTED, Where.UNKNOWN, Where.MOVING])
def test_no_text_advises_to_end_a_guest_that_may_be_intact(where: Where) -> None:
    words = sentence(where).lower()
    assert not any(
        deed in words
        for deed in ("destroy", "stop one", "stop it", "end one", "end it first", "shut down one")
    )


def test_names_are_followed_by_their_side() -> None:
    assert sentence(Where.SOURCE, "hosta", "hostb") == (
        "The guest is still running at hosta, the source, and nowhere else."
    )
    stayed = "The guest is still running at the source. Could not check the destination."
    assert sentence(Where.STAYED) == stayed
