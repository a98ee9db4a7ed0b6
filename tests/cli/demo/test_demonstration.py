"""``mtunnel demo``: its options, its report as text and JSON, and its requirements."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tunnel.cli.demo import demonstration as module
from tunnel.cli.demo import rehearsal
from tunnel.cli.demo.demonstration import as_object, describe
from tunnel.cli.demo.display import Display
from tunnel.cli.demo.rehearsal import DemoMode, RehearsalPlan, RehearsalReport
from tunnel.cli.demo.two_daemons import IngressKind
from tunnel.cli.main import main
from tunnel.proof.accelerator import Accelerator
from tunnel.units import GIB, MIB
from tunnel.virt.move import MoveSummary

PLAN = RehearsalPlan(DemoMode.MULTIFD, GIB, 32 * MIB, IngressKind.TCP, 6)
REPORT = RehearsalReport(
    plan=PLAN,
    accelerator=Accelerator("tcg", "no KVM"),
    lane="userspace",
    cipher="TLS_AES_256_GCM_SHA384",
    outcome=MoveSummary(2.5, 0.042, 2 * GIB, 3, postcopied=False, setup=0.5),
    pages=261600,
    cpu={"hosta": 1.0, "hostb": 1.5, "source": 2.0, "destination": 0.25},
)

Called = list[tuple[RehearsalPlan, Accelerator | None]]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Called:
    """The recorded calls of the command."""
    calls: Called = []

    def run(plan: RehearsalPlan, accelerator: Accelerator | None, display: Display) -> RehearsalReport:
        calls.append((plan, accelerator))
        return REPORT

    monkeypatch.setattr(module, "_run", run)
    return calls


def demo(*options: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["demo", *options])
    return int(caught.value.code or 0)


def test_defaults(called: Called) -> None:
    assert demo() == 0
    assert called == [(RehearsalPlan(DemoMode.PRECOPY, GIB, 32 * MIB, IngressKind.UNIX, 4), None)]


def test_every_option_reaches_the_plan(called: Called) -> None:
    options = "--mode multifd --memory 256MiB --dirty-rate 1.5MiB/s --ingress tcp --accel kvm --channels 7"
    assert demo(*options.split()) == 0
    expected = RehearsalPlan(DemoMode.MULTIFD, 256 * MIB, 3 * MIB // 2, IngressKind.TCP, 7)
    assert called == [(expected, Accelerator("kvm", "requested with --accel"))]


@pytest.mark.parametrize("rate", ["8MiB", "8MiB/s", "8388608"])
def test_rate_suffix_is_optional(called: Called, rate: str) -> None:
    assert demo("--dirty-rate", rate) == 0
    assert called[0][0].dirty_rate == 8 * MIB


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--memory", "16MiB"], "'16MiB' is not a whole number of MiB from 32MiB to 60GiB"),
        (["--memory", "64.5MiB"], "'64.5MiB' is not a whole number of MiB"),
        (["--memory", "61GiB"], "'61GiB' is not a whole number of MiB"),
        (["--memory", "1GB"], "unknown unit"),
        (["--dirty-rate", "fast"], "not a number with a unit"),
        (["--mode", "teleport"], "teleport"),
        (["--channels", "0"], "--channels"),
    ],
)
def test_invalid_option_is_a_usage_error(
    called: Called, capsys: pytest.CaptureFixture[str], options: list[str], complaint: str
) -> None:
    assert demo(*options) == 2
    assert complaint in " ".join(capsys.readouterr().err.split())
    assert called == []


def test_missing_qemu_is_reported_before_anything_starts(
    called: Called, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert demo() == 2
    assert "apt install qemu-system-x86" in capsys.readouterr().err
    assert called == []


def test_guest_that_does_not_fit_twice_is_refused(
    called: Called, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "_available_memory", lambda: 2 * GIB)
    assert demo("--memory", "1GiB") == 2
    assert "two guests of 1GiB need 2560 MiB including overhead, but only 2048 MiB" in capsys.readouterr().err
    assert called == []
    assert demo("--memory", "512MiB") == 0


def test_json_has_stable_keys(called: Called, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo("--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "verified": True,
        "pages": 261600,
        "mode": "multifd",
        "memory": GIB,
        "dirty_rate": 32 * MIB,
        "ingress": "tcp",
        "channels": 6,
        "accelerator": {"name": "tcg", "reason": "no KVM"},
        "lane": {"kind": "userspace", "cipher": "TLS_AES_256_GCM_SHA384"},
        "transferred": 2 * GIB,
        "seconds": 2.5,
        "throughput": GIB,
        "downtime_seconds": 0.042,
        "passes": 3,
        "postcopied": False,
        "cpu": {
            "hosta": {"seconds": 1.0, "seconds_per_gib": 0.5},
            "hostb": {"seconds": 1.5, "seconds_per_gib": 0.75},
            "source": {"seconds": 2.0, "seconds_per_gib": 1.0},
            "destination": {"seconds": 0.25, "seconds_per_gib": 0.125},
        },
    }


def test_one_channel_is_reported_without_multifd() -> None:
    report = dataclasses.replace(REPORT, plan=dataclasses.replace(PLAN, mode=DemoMode.PRECOPY))
    assert as_object(report)["channels"] == 1


def test_text_report(called: Called, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo() == 0
    assert capsys.readouterr().out.splitlines() == [
        "Verified: all 261600 pages match, and the guest is running on hostb.",
        "  moved      2048 MiB in 2.50 s, 1024 MiB/s; downtime 42 ms",
        "  how        multifd over 6 channels, tcp ingress",
        "  encrypted  userspace lane, TLS_AES_256_GCM_SHA384",
        "  guest      1GiB, run by tcg",
        (
            "  CPU s/GiB  hosta 0.50, hostb 0.75, QEMU source 1.00, QEMU destination 0.12 "
            "(QEMU's includes running the guest)"
        ),
    ]


@pytest.mark.parametrize(
    ("postcopied", "text"),
    [(True, "how        postcopy, tcp"), (False, "how        postcopy, but it completed before the switch")],
)
def test_postcopy_without_a_switch_is_reported(postcopied: bool, text: str) -> None:
    report = dataclasses.replace(
        REPORT,
        plan=dataclasses.replace(PLAN, mode=DemoMode.POSTCOPY),
        outcome=dataclasses.replace(REPORT.outcome, postcopied=postcopied),
    )
    assert text in "\n".join(describe(report))
