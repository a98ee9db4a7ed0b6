"""Waiting returns the value that was found, and times out with a message."""

from __future__ import annotations

import pytest

from tunnel.bench.lab.waiting import LabError, until


def test_the_first_true_value_is_returned() -> None:
    answers = iter([None, 0, "", "there", "later"])
    assert until(lambda: next(answers), "for an answer") == "there"


def test_a_timeout_names_what_was_waited_for() -> None:
    with pytest.raises(LabError, match=r"timed out after 0\.05 s waiting for a miracle"):
        until(lambda: False, "for a miracle", within=0.05)


def test_an_error_ends_the_waiting() -> None:
    def fail() -> None:
        raise LabError("it ended")

    with pytest.raises(LabError, match="it ended"):
        until(fail, "for it")
