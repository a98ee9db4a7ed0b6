"""Pinned congestion control, in a namespace that nobody outside notices: a process of its own enters it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunnel.bench.measure import netns

ENTER = "import sys; from tunnel.bench import network; print(network.enter(sys.argv[1]))"
SOCKETS = ENTER + "; print(network.effective_congestion())"


def _run(code: str, argument: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, argument]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_sockets_outside_use_what_the_system_says() -> None:
    default = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    assert netns.effective_congestion() == default


def test_without_root_the_default_stays_and_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = netns.enter("vegas")
    assert found == netns.Network(netns.effective_congestion(), pinned=False)


@pytest.mark.root
@pytest.mark.parametrize("congestion", ["cubic", "reno"])
def test_every_socket_inside_uses_what_was_asked_for(congestion: str) -> None:
    done = _run(SOCKETS, congestion)
    assert done.stdout.splitlines() == [f"Network(congestion='{congestion}', pinned=True)", congestion]


@pytest.mark.root
def test_the_machine_outside_is_left_alone() -> None:
    before = netns.effective_congestion()
    other = "reno" if before != "reno" else "cubic"
    assert _run(SOCKETS, other).returncode == 0
    assert netns.effective_congestion() == before


@pytest.mark.root
def test_a_congestion_control_that_the_kernel_does_not_know_is_refused() -> None:
    done = _run(ENTER, "nonesuch")
    assert done.returncode != 0
    assert "the kernel does not accept congestion control nonesuch" in done.stderr
