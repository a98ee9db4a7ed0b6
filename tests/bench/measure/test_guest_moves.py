"""``bench migrate`` as a whole: the announced modes, skipped ones and why, and the result files."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.measure.test_guest_options import options
from tests.support.lab import lab, module_lab
from tunnel.bench.lab.host_plan import PORT
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.waiting import LabError
from tunnel.bench.measure import guest_moves
from tunnel.bench.measure.guest_records import Convergence, MeasuredMigration, Setting
from tunnel.bench.measure.migration_modes import EGRESS, INGRESSES, MigrationMode, choose
from tunnel.bench.measure.results import Results
from tunnel.bench.report.result_file import read
from tunnel.units import MIB

__all__ = ["lab", "module_lab"]


@pytest.fixture
def results(tmp: Path) -> Results:
    return Results(tmp / "results", "migrate")


def test_modes_that_cannot_be_measured_are_named_first(results: Results) -> None:
    asked = options(modes="mtunnel,tunnelled-unix", link="none,1Gbit")
    guest_moves.announce(asked, results)
    announced = results.of_kind("contestant")
    assert [record["name"] for record in announced] == ["mtunnel", "tunnelled-unix"]
    assert "virsh migrate --live --p2p GUEST qemu+unix:///" in str(announced[0]["settings"])
    assert "QEMU emulator version" in str(announced[1]["version"])
    assert [(r["name"], r["link_bits_per_s"]) for r in results.of_kind("absent")] == [
        ("tunnelled-unix", 10**9)
    ]


@pytest.mark.root
def test_a_mode_that_fails_is_recorded_and_skipped_from_then_on(
    lab: Lab, results: Results, tmp: Path
) -> None:
    broken = MigrationMode(
        "broken", "to nowhere", (f"qemu+unix:///system?socket={tmp}/none",), encrypts=False
    )
    asked = replace(options(memory="32MiB", rounds=2), modes=(broken, *choose(["native"])))
    found = guest_moves._MigrateRun(lab, asked, results, lambda _: None).measure()
    assert [(m.mode, m.round) for m in found.migrations] == [("native", 1), ("native", 2)]
    (failure,) = results.of_kind("failure")
    assert (failure["contestant"], failure["round"], failure["guest_bytes"]) == ("broken", 1, 32 * MIB)
    assert f"{tmp}/none" in str(failure["reason"])
    assert lab.guests == {}
    assert lab.states(guest_moves.GUEST) == ("absent", "absent")


@pytest.mark.root
def test_opened_ports_are_closed_again_also_after_an_error(lab: Lab) -> None:
    (native,) = choose(["native"])

    def fail() -> None:
        with guest_moves._holes(lab, native):
            assert set(lab.b.firewall.opened()) == {PORT, *native.ports}
            raise LabError("it failed")

    with pytest.raises(LabError, match="it failed"):
        fail()
    assert lab.b.firewall.opened() == [PORT]


@pytest.mark.root
@pytest.mark.slow
def test_a_shaped_link_limits_a_migration(lab: Lab) -> None:
    (native,) = choose(["native"])
    setting = Setting(64 * MIB, 0, 400_000_000)
    lab.shape(setting.link_bits_per_s)
    moved = guest_moves.move(lab, native, setting, 1, options())
    assert moved.converged
    assert moved.seconds > 0.5 * 64 * MIB * 8 / 400e6
    assert moved.mib_per_s < 1.2 * 400e6 / 8 / MIB


@pytest.mark.root
@pytest.mark.slow
def test_lanes_are_reset_as_often_as_configured(lab: Lab) -> None:
    (cut,) = choose(["mtunnel-cut"])
    lab.start_daemons(INGRESSES, egress=EGRESS)
    setting = Setting(64 * MIB, 0, 400_000_000)
    lab.shape(setting.link_bits_per_s)
    moved = guest_moves.move(lab, replace(cut, cuts=7), setting, 1, options())
    assert moved.converged
    assert lab.a.daemons[-1].link("hostb")["resumes"] == 7
    lab.end_guest(guest_moves.GUEST)
    before = len(lab.a.started)
    with (
        pytest.raises(LabError, match="the lane was reset 0 times instead of 7, and resumed 0 times"),
        guest_moves._resets(lab, replace(cut, cuts=7), setting),
    ):
        pass
    assert not any(program.running for program in lab.a.started[before:])


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tunnel.bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


@pytest.mark.root
@pytest.mark.slow
def test_guests_are_migrated_limits_are_searched_and_both_are_reported(tmp: Path) -> None:
    size = ["--memory=64MiB", "--rounds=1", "--only=native,mtunnel"]
    search = ["--converge", "--highest=64MiB", "--steps=2"]
    done = _bench("migrate", *size, *search, f"--output={tmp}/own/file.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    (file,) = read(tmp / "own" / "file.jsonl")
    assert done.stdout == file.path.read_text()
    assert file.run["options"]["memory"] == [64 * MIB]
    moved = file.build("migration", MeasuredMigration)
    assert [m.mode for m in moved] == ["native", "mtunnel"]
    for migration in moved:
        assert migration.converged
        assert migration.pages_verified * 4096 > 60 * MIB
        assert 0.9 < migration.sent_per_byte < 2.0
        assert set(migration.cpu_seconds["a"]) >= {"qemu", "libvirtd"}
    assert set(moved[1].cpu_seconds["b"]) == {"qemu", "libvirtd", "mtunnel"}
    for limit in file.build("convergence", Convergence):
        probes = [r for r in file.of_kind("probe") if r["mode"] == limit.mode]
        assert len(probes) == limit.probes <= 2
        within = [r["dirty_bytes_per_s"] for r in probes if r["within"]]
        assert limit.asked_bytes_per_s == max(within, default=0)
    assert [limit.mode for limit in file.build("convergence", Convergence)] == ["native", "mtunnel"]
    reported = _bench("report", str(file.path), f"--output={tmp}/report")
    assert reported.returncode == 0, reported.stderr
    text = (tmp / "report" / "report.md").read_text()
    assert "## Migration: 0.0625 GiB guest, idle, unshaped link" in text
    assert "The highest dirty rate that converges" in text


@pytest.mark.root
def test_a_result_file_is_never_overwritten(tmp: Path) -> None:
    mine = tmp / "mine.jsonl"
    mine.write_text(json.dumps({"kind": "run"}))
    done = _bench("migrate", "--only=native", f"--output={mine}")
    assert done.returncode == 2
    assert f"{mine} already exists" in done.stderr.replace("\n", " ")
    assert json.loads(mine.read_text()) == {"kind": "run"}
