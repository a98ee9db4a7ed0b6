"""Kernel lanes on a kernel that has TLS: Debian's, in a virtual machine, because the host may have none.

Two machines run at a time, for two to five minutes. They run the test files named here; ``tests/emulated``
has those that make sense only there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.support import emulated
from tests.support.emulated import Outcome, Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1000)]

PATIENCE = 900.0  # a timeout for hangs: slow cores take a third of it
WITH_TLS = {"EMULATED": "1"}
KERNEL_LANES = ("-k", "kernel", "-m", "not long")
BOTH = ("-k", "kernel-kernel")

MACHINES: tuple[Mapping[str, Run], ...] = (
    {
        "without": Run(("tests/emulated/without.py",), modules=()),
        "lanes": Run(("tests/lanes/test_lane.py", *KERNEL_LANES)),
        "inside": Run(("tests/emulated/inside.py",)),
        "daemons": Run(("tests/emulated/daemons.py",)),
    },
    {
        "endings": Run(("tests/lanes/test_lane_endings.py", *KERNEL_LANES)),
        "streams": Run(("tests/relay/test_relaying.py", *KERNEL_LANES)),
        "loop": Run(("tests/emulated/loop.py",)),
        "packets": Run(("tests/relay/test_relaying.py", *BOTH), mtu=1500),
    },
)
LEAST = {
    "without": 2,
    "lanes": 34,
    "inside": 18,
    "daemons": 8,
    "loop": 3,
    "endings": 93,
    "streams": 18,
    "packets": 6,
}
"""Minimum number of tests of each run: one that collected none would pass as well."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """The outcomes of all machines, after all have finished."""
    boot = partial(emulated.boot, environment=WITH_TLS, patience=PATIENCE)
    directories = [tmp_path_factory.mktemp("machine") for _ in MACHINES]
    with ThreadPoolExecutor(len(MACHINES)) as pool:
        first, second = pool.map(boot, MACHINES, directories)
    return first | second


def passed(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert outcome.code == 0, outcome.output
    counted = re.search(r"^(\d+) passed(?:, \d+ deselected)? in ", outcome.output, re.MULTILINE)
    assert counted, outcome.output
    assert int(counted[1]) >= LEAST[name], outcome.output


def test_kernel_lanes_conform_with_either_kind_at_the_other_end(
    outcomes: dict[str, Outcome],
) -> None:
    passed(outcomes, "lanes")
    passed(outcomes, "endings")


def test_streams_over_kernel_lanes_survive_resets_stalls_losses_and_rotations(
    outcomes: dict[str, Outcome],
) -> None:
    passed(outcomes, "streams")


def test_the_self_test_passes_auto_measures_and_no_payload_enters_the_process(
    outcomes: dict[str, Outcome],
) -> None:
    passed(outcomes, "inside")


def test_neither_small_pieces_nor_full_pipes_nor_a_full_lane_stall_the_loop(
    outcomes: dict[str, Outcome],
) -> None:
    passed(outcomes, "loop")


def test_two_daemons_carry_streams_with_the_kernel_at_both_ends_or_at_one(
    outcomes: dict[str, Outcome],
) -> None:
    passed(outcomes, "daemons")


def test_streams_with_an_mtu_of_1500(outcomes: dict[str, Outcome]) -> None:
    passed(outcomes, "packets")


def test_without_its_module_kernel_tls_is_refused_with_the_reason(
    outcomes: dict[str, Outcome],
) -> None:
    passed(outcomes, "without")
