"""Pinned congestion control in a separate namespace, entered by a child process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunnel.bench.measure import netns

ENTER = "import sys; from tunnel.bench.measure import netns; print(netns.enter(sys.argv[1]))"
SOCKETS = ENTER + "; print(netns.effective_congestion())"


def _run(code: str, argument: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, argument]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_sockets_outside_use_the_system_default() -> None:
    default = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    assert netns.effective_congestion() == default


def test_without_root_the_default_is_used_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = netns.enter("vegas")
    assert found == netns.Network(netns.effective_congestion(), pinned=False)


@pytest.mark.root
@pytest.mark.parametrize("congestion", ["cubic", "reno"])
def test_every_socket_inside_uses_the_given_algorithm(congestion: str) -> None:
    done = _run(SOCKETS, congestion)
    assert done.stdout.splitlines() == [f"Network(congestion='{congestion}', pinned=True)", congestion]


@pytest.mark.root
def test_the_machine_outside_is_not_changed() -> None:
    before = netns.effective_congestion()
    other = "reno" if before != "reno" else "cubic"
    assert _run(SOCKETS, other).returncode == 0
    assert netns.effective_congestion() == before


@pytest.mark.root
def test_an_unsupported_congestion_control_is_refused() -> None:
    done = _run(ENTER, "nonesuch")
    assert done.returncode != 0
    assert "the kernel does not accept congestion control nonesuch" in done.stderr
