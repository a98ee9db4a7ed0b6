"""The choice of the lane kind by measured costs, and its output."""

from __future__ import annotations

import pytest

from tunnel.tls.lane_kinds import PLACES, Cost, LaneCosts, LaneKind, figures

SLOW = "only 12 KiB transferred in 0.25 s"


@pytest.mark.parametrize(
    ("kernel", "userspace", "wins"),
    [
        (0.61, 0.74, True),
        (0.74, 0.61, False),
        (0.7, 0.7, False),
        (0.61, SLOW, True),
        (SLOW, 0.61, False),
        (SLOW, SLOW, False),
    ],
    ids=["cheaper", "dearer", "the same", "alone measured", "not measured", "neither measured"],
)
def test_the_kernel_wins_where_it_is_known_to_cost_less(kernel: Cost, userspace: Cost, wins: bool) -> None:
    assert LaneCosts(kernel, userspace).kernel_wins is wins


def test_both_costs_are_shown_that_of_the_kind_in_use_first() -> None:
    facts = LaneCosts(0.6149, 0.7352).facts()
    assert figures(facts, LaneKind.KERNEL) == " (0.61 CPU s/GiB; in the daemon 0.73)"
    assert figures(facts, LaneKind.USERSPACE) == " (0.73 CPU s/GiB; in the kernel 0.61)"
    assert figures(LaneCosts(SLOW, 0.7).facts(), "userspace") == (
        " (0.70 CPU s/GiB; in the kernel not measured)"
    )
    assert figures(LaneCosts(SLOW, SLOW).facts(), "userspace") == " (neither kind could be measured)"


def test_without_a_measurement_no_costs_are_shown() -> None:
    assert figures(None, LaneKind.KERNEL) == ""


def test_facts_are_numbers() -> None:
    assert LaneCosts(0.61249, SLOW).facts() == {"kernel": 0.612, "userspace": None}
    assert set(LaneCosts(1, 1).facts()) == set(PLACES) == set(LaneKind)


def test_a_kind_that_could_not_be_measured_has_a_reason() -> None:
    assert LaneCosts(0.6, 0.7).faults == ""
    assert LaneCosts(SLOW, 0.7).faults == f"; kernel lanes were not measured: {SLOW}"
    assert LaneCosts(0.6, "x").faults == "; userspace lanes were not measured: x"
