"""The QEMU options and memory needs of the demonstration, and its failure."""

from __future__ import annotations

import dataclasses
import io
import tempfile
from pathlib import Path

import pytest
from rich.console import Console

from tunnel.cli.demo import rehearsal
from tunnel.cli.demo.display import Display
from tunnel.cli.demo.rehearsal import DemoMode, RehearsalPlan, rehearse
from tunnel.cli.demo.two_daemons import IngressKind
from tunnel.errors import MigrationError
from tunnel.proof.accelerator import Accelerator
from tunnel.proof.pattern_guest import Workload
from tunnel.units import GIB, MIB
from tunnel.virt.move_options import DEFAULTS, MoveOptions

PLAN = RehearsalPlan(DemoMode.MULTIFD, GIB, 32 * MIB, IngressKind.TCP, 6)
TCG = Accelerator("tcg", "requested")


def files_in(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def test_available_memory_is_read_from_the_kernel() -> None:
    assert 0 < rehearsal._available_memory() < 1 << 50


def test_plan_sets_the_options_of_qemu() -> None:
    assert PLAN.options == MoveOptions(parallel=6)
    assert dataclasses.replace(PLAN, mode=DemoMode.PRECOPY).options == DEFAULTS
    postcopy = dataclasses.replace(PLAN, mode=DemoMode.POSTCOPY).options
    assert (postcopy.postcopy, postcopy.parallel, postcopy.switch_at) == (True, 0, 1)


def test_working_set_never_exceeds_a_quarter_of_the_guest() -> None:
    assert PLAN.workload == Workload(64 * MIB, 32 * MIB)
    assert dataclasses.replace(PLAN, memory=64 * MIB).workload.working_set == 16 * MIB


@pytest.mark.parametrize(("length", "place"), [(60, None), (61, "/tmp")])
def test_long_temporary_directory_is_not_used_for_sockets(
    monkeypatch: pytest.MonkeyPatch, length: int, place: str | None
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/".ljust(length, "x"))
    assert rehearsal._short_place() == place


async def test_failure_includes_the_logs_of_the_daemons_and_leaves_no_file(
    tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp))
    impossible = dataclasses.replace(PLAN, memory=64 * MIB, channels=256)
    with pytest.raises(MigrationError, match=r"(?s)multifd.channels.*\nhosta: .*\nhostb: "):
        await rehearse(impossible, TCG, Display(Console(file=io.StringIO())))
    assert files_in(tmp) == []
