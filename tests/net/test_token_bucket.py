"""Token buckets, with a clock that the tests control."""

from __future__ import annotations

from tunnel.net.token_bucket import Bucket, Rate


def test_a_burst_and_then_the_rate() -> None:
    bucket = Bucket(Rate(3, 2.0), 100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(100.4)
    assert bucket.take(100.5)
    assert not bucket.take(100.5)


def test_tokens_do_not_exceed_the_burst() -> None:
    bucket = Bucket(Rate(2, 1.0), 0.0)
    assert [bucket.take(1e6) for _ in range(3)] == [True, True, False]


def test_several_tokens_are_taken_all_or_none() -> None:
    bucket = Bucket(Rate(4, 1.0), 0.0)
    assert not bucket.take(0.0, 5)
    assert bucket.take(0.0, 4)
    assert not bucket.take(0.0)


def test_a_token_that_is_put_back_can_be_taken_again() -> None:
    bucket = Bucket(Rate(1, 1.0), 0.0)
    bucket.give_back()
    assert [bucket.take(0.0), bucket.has(0.0), bucket.take(0.0)] == [True, False, False]
    bucket.give_back()
    assert [bucket.has(0.0), bucket.take(0.0), bucket.take(0.0)] == [True, True, False]


def test_it_is_full_again_after_a_while() -> None:
    bucket = Bucket(Rate(2, 0.5), 0.0)
    assert bucket.full(0.0)
    bucket.take(0.0)
    assert not bucket.full(1.9)
    assert bucket.full(2.0)


def test_borrowing_returns_the_time_to_wait() -> None:
    bucket = Bucket(Rate(2, 4.0), 0.0)
    assert [bucket.borrow(0.0) for _ in range(4)] == [0.0, 0.0, 0.25, 0.5]
    assert not bucket.has(0.5)
    assert bucket.borrow(0.75) == 0.0
