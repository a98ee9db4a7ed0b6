"""One migration: measured when it completes, aborted when it does not, and an error when it fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.lab import lab, module_lab
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.waiting import LabError
from tunnel.bench.measure.crossing import Crossing, CrossingOutcome, Patience, written_rate
from tunnel.bench.measure.migration_modes import EGRESS, INGRESSES, MigrationMode, choose
from tunnel.proof.pattern_guest import PAGE, Workload
from tunnel.units import MIB

__all__ = ["lab", "module_lab"]

MEMORY = 64 * MIB
IDLE = Workload(dirty_rate=0)
FRANTIC = Workload(MEMORY, dirty_rate=64 * MIB)
PATIENCE = Patience(seconds=60.0, passes=40)


def cross(
    lab: Lab, mode: str, *options: str, workload: Workload = IDLE, patience: Patience = PATIENCE
) -> CrossingOutcome:
    """Migrate a guest in this mode, with more options for virsh, and verify it afterwards."""
    found = choose([mode])[0]
    lab.b.firewall.open(16509, "49152-49215")
    guest = lab.start_guest(memory=MEMORY, workload=workload, touched=True)
    outcome = Crossing(lab, guest, replace(found, options=(*found.options, *options)), patience).run()
    guest.verify(lab.a if outcome.aborted else lab.b)
    return outcome


def test_the_write_rate_is_measured_during_the_stream() -> None:
    samples = [(0.0, 0), (10.0, 1000), (11.0, 1200), (12.0, 1300)]
    assert written_rate(samples, 10.0) == 150 * PAGE
    assert written_rate(samples, 11.5) == round(1300 / 12 * PAGE)  # too short: with earlier samples
    assert written_rate([(3.0, 7)], 1.0) == 0


@pytest.mark.root
def test_a_native_migration_is_measured_on_both_sides(lab: Lab) -> None:
    # QEMU measures its rate over 100 ms, and reports none for a shorter stream.
    outcome = cross(lab, "native", "--bandwidth", "128")
    assert outcome.aborted == ""
    assert MEMORY * 0.9 < outcome.bytes < MEMORY * 1.5
    assert outcome.downtime_seconds is not None
    assert 0 < outcome.downtime_seconds <= outcome.seconds < outcome.wall_seconds
    assert outcome.iterations >= 1
    assert (outcome.stream_bytes_per_s or 0) > 0
    assert outcome.written_bytes_per_s == 0
    assert {side: set(programs) for side, programs in outcome.cpu_seconds.items()} == {
        "a": {"qemu", "libvirtd"},
        "b": {"qemu", "libvirtd"},
    }
    assert all(0 <= used["qemu"] <= 2 * outcome.wall_seconds for used in outcome.cpu_seconds.values())


@pytest.mark.root
@pytest.mark.slow
def test_post_copy_through_mtunnel_completes_with_all_memory(lab: Lab) -> None:
    lab.allow_postcopy()
    lab.start_daemons(INGRESSES, egress=EGRESS)
    outcome = cross(lab, "mtunnel-postcopy", "--bandwidth", "32", workload=FRANTIC)
    assert outcome.aborted == ""
    # The guest switches over after the first pass; the rest of its memory takes a while at this rate.
    assert outcome.downtime_seconds is not None
    assert outcome.downtime_seconds < outcome.seconds
    assert outcome.bytes > MEMORY
    assert outcome.written_bytes_per_s > 0
    assert {"a", "b"} == {side for side, used in outcome.cpu_seconds.items() if used["mtunnel"] > 0}


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize(
    ("patience", "why"),
    [(Patience(60.0, passes=2), "more than 2 passes"), (Patience(1.0, passes=1000), "more than 1 s")],
)
def test_a_migration_that_does_not_converge_is_aborted_and_the_guest_stays(
    lab: Lab, patience: Patience, why: str
) -> None:
    outcome = cross(lab, "native", "--bandwidth", "16", workload=FRANTIC, patience=patience)
    assert outcome.aborted == why
    assert outcome.downtime_seconds is None
    assert outcome.bytes > 0
    assert outcome.written_bytes_per_s > 0
    assert lab.states("web1") == ("running", "absent")


@pytest.mark.root
def test_a_failed_migration_is_an_error_with_the_output_of_virsh(lab: Lab, tmp: Path) -> None:
    guest = lab.start_guest(memory=MEMORY, workload=IDLE)
    broken = MigrationMode(
        "broken", "to nowhere", (f"qemu+unix:///system?socket={tmp}/none",), encrypts=False
    )
    with pytest.raises(LabError, match=rf"(?s)broken failed.*{tmp}/none"):
        Crossing(lab, guest, broken, PATIENCE).run()
