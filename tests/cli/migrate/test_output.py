"""The text and JSON output of a migration."""

from __future__ import annotations

import dataclasses
import io
import json
from datetime import datetime

import pytest
from rich.console import Console

from tunnel.cli.migrate.output import HumanOutput, JsonOutput, describe
from tunnel.cli.migrate.readiness import CheckResult
from tunnel.errors import UnreachableError
from tunnel.units import MIB
from tunnel.virt.guest_location import Where
from tunnel.virt.move import MoveSummary
from tunnel.virt.progress import Progress

STANDING = Progress("active", 1.0, 1024 * MIB, 300 * MIB, 256 * MIB, 32 * MIB, 2, 200 * MIB, 0.25)
SUMMARY = MoveSummary(2.5, 0.04, 300 * MIB, 2, postcopied=True)


def test_json_is_one_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    announcer = JsonOutput()
    announcer.check(CheckResult("link", "up"))
    with announcer.moving("web1", "tcp://127.0.1.2", lambda: 1000.4):
        announcer.progress(STANDING)
        announcer.notice("aborting")
    announcer.ended("done", Where.DESTINATION, "It runs there.", SUMMARY)
    announcer.ended("done", Where.LEFT, "It left.", None)
    announcer.failed(UnreachableError("gone"))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(datetime.fromisoformat(line.pop("time")).utcoffset() is not None for line in lines)
    assert lines == [
        {"event": "check", "check": "link", "detail": "up"},
        {"event": "started", "guest": "web1", "route": "tcp://127.0.1.2"},
        {"event": "progress", **dataclasses.asdict(STANDING), "tunnel_throughput": 1000},
        {"event": "notice", "text": "aborting"},
        {
            "event": "ended",
            "result": "done",
            "runs_at": "destination",
            "text": "It runs there.",
            "summary": dataclasses.asdict(SUMMARY),
        },
        {"event": "ended", "result": "done", "runs_at": "left", "text": "It left.", "summary": None},
        {"event": "failed", "error": "gone", "exit_code": 4},
    ]


def test_text_has_steps_and_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    written = io.StringIO()
    announcer = HumanOutput(Console(file=written, force_terminal=False))
    announcer.check(CheckResult("link", "up"))
    announcer.progress(STANDING)  # nothing moves yet
    with announcer.moving("web1", "tcp://127.0.1.2", lambda: None):
        announcer.progress(STANDING)
    announcer.notice("aborting")
    announcer.ended("done", Where.DESTINATION, "It runs there.", SUMMARY)
    announcer.failed(UnreachableError("gone"))
    assert written.getvalue().splitlines() == [
        "link         up",
        "moving       web1 over tcp://127.0.1.2; ctrl-C aborts",
        "note         aborting",
    ]
    out = capsys.readouterr().out.splitlines()
    assert out == ["It runs there.", "  2.5 s, 300 MiB sent, 2 passes, downtime 40 ms, post-copy"]


def test_progress_is_shown_on_a_terminal() -> None:
    written = io.StringIO()
    console = Console(
        file=written, force_terminal=True, width=200, color_system=None, _environ={"TERM": "xterm"}
    )
    announcer = HumanOutput(console)
    with announcer.moving("web1", "tcp://127.0.1.2", lambda: 180.0 * MIB):
        announcer.progress(STANDING)
    shown = written.getvalue()
    assert " 75%" in shown
    for part in (
        "active, pass 2",
        "300 MiB sent, 256 left",
        "dirty 32 MiB/s",
        "downtime 250 ms",
        "tunnel 180",
    ):
        assert part in shown


@pytest.mark.parametrize(
    ("summary", "text"),
    [
        (MoveSummary(1.0, None, None, None, postcopied=False), "1.0 s"),
        (MoveSummary(1.0, 0.001, MIB, 1, postcopied=False), "1.0 s, 1 MiB sent, 1 pass, downtime 1 ms"),
    ],
)
def test_unknown_figures_are_omitted(summary: MoveSummary, text: str) -> None:
    assert describe(summary) == text
