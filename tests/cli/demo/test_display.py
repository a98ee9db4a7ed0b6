"""Progress output: bars on a terminal, only steps elsewhere, nothing when quiet."""

from __future__ import annotations

import io

from rich.console import Console

from tunnel.cli.demo.display import Display
from tunnel.units import MIB
from tunnel.virt.progress import Progress

NOW = Progress("active", 1.0, 1024 * MIB, 300 * MIB, 724 * MIB, 32 * MIB, 1, 300 * MIB, 0.3)


def test_display_on_a_pipe_shows_steps_only() -> None:
    written = io.StringIO()
    display = Display(Console(file=written, force_terminal=False))
    display.step("guest", "1GiB filled")
    with display.waiting("filling"), display.migration() as migrating, display.verification() as verifying:
        migrating(NOW)
        verifying(10, 20)
    assert written.getvalue() == "guest        1GiB filled\n"


def test_display_on_a_terminal_shows_progress() -> None:
    written = io.StringIO()
    display = Display(
        Console(file=written, force_terminal=True, width=120, color_system=None, _environ={"TERM": "xterm"})
    )
    with display.migration() as migrating:
        migrating(NOW)
    with display.verification() as verifying:
        verifying(10, 20)
    assert "active, 300 MiB/s, pass 1" in written.getvalue()
    assert " 29%" in written.getvalue()
    assert "10 of 20 pages" in written.getvalue()


def test_quiet_display_writes_nothing() -> None:
    written = io.StringIO()
    display = Display(Console(file=written, force_terminal=True, quiet=True))
    display.step("guest", "1GiB filled")
    with display.migration() as migrating:
        migrating(NOW)
    assert written.getvalue() == ""
