"""Kernel lanes on a kernel that has TLS: Debian's, in an emulated machine, because this one's may have none.

Two machines run at a time, so that this takes three minutes and not six. What runs inside stands in the tests
that are named here; ``tests/emulated`` has those that make sense only there.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.emulated import Machine, Outcome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE = 400.0
WITH_TLS = {"EMULATED": "1"}
KERNEL_LANES = ("-k", "kernel and not threads", "-m", "not long")


class Task(NamedTuple):
    """A machine, what it runs, and how many tests that is at least."""

    machine: Machine
    arguments: tuple[str, ...]
    least: int


TASKS = {
    "lanes": Task(
        Machine(environment=WITH_TLS),
        ("tests/transport/test_lane_conformance.py", *KERNEL_LANES),
        34,
    ),
    "endings": Task(
        Machine(environment=WITH_TLS), ("tests/transport/test_lane_endings.py", *KERNEL_LANES), 93
    ),
    "streams": Task(Machine(environment=WITH_TLS), ("tests/relay/test_relaying.py", *KERNEL_LANES), 12),
    "inside": Task(Machine(environment=WITH_TLS), ("tests/emulated/inside.py",), 9),
    "daemons": Task(Machine(environment=WITH_TLS), ("tests/emulated/daemons.py",), 5),
    "threads": Task(
        Machine(environment=WITH_TLS, mtu=1500),
        ("tests/relay/test_relaying.py", "-k", "kernel-kernel or kernel_threads-kernel_threads"),
        12,
    ),
    "without": Task(Machine(modules=()), ("tests/emulated/without.py",), 2),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What the machines had to say, once all are through."""

    def run(task: Task, directory: Path) -> Outcome:
        arguments = ("-q", "--color=no", "--tb=short", "-p", "no:cacheprovider", *task.arguments)
        return task.machine.pytest(directory, *arguments, patience=PATIENCE)

    with ThreadPoolExecutor(2) as pool:
        directories = [tmp_path_factory.mktemp(name) for name in TASKS]
        return dict(zip(TASKS, pool.map(run, TASKS.values(), directories), strict=True))


def passed(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert outcome.code == 0, outcome.output
    counted = re.search(r"^(\d+) passed(?:, \d+ deselected)? in ", outcome.output, re.MULTILINE)
    assert counted, outcome.output
    assert int(counted[1]) >= TASKS[name].least, outcome.output


def test_kernel_lanes_keep_the_contract_with_either_kind_at_the_other_end(
    outcomes: dict[str, Outcome],
) -> None:
    passed(outcomes, "lanes")
    passed(outcomes, "endings")


def test_streams_cross_kernel_lanes_whole_through_resets_stalls_and_losses(
    outcomes: dict[str, Outcome],
) -> None:
    passed(outcomes, "streams")


def test_the_self_test_passes_and_no_payload_enters_the_process(outcomes: dict[str, Outcome]) -> None:
    passed(outcomes, "inside")


def test_two_daemons_carry_streams_with_the_kernel_at_both_ends_or_at_one(
    outcomes: dict[str, Outcome],
) -> None:
    passed(outcomes, "daemons")


def test_streams_cross_packets_of_an_ethernet_and_lanes_on_threads(
    outcomes: dict[str, Outcome],
) -> None:
    passed(outcomes, "threads")


def test_without_its_module_the_kernel_is_refused_with_the_reason(
    outcomes: dict[str, Outcome],
) -> None:
    passed(outcomes, "without")
