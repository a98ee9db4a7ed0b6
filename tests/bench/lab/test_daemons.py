"""mtunnel on a host: started with a configuration, linked, killed, restarted."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.bench.lab.test_programs import HERE
from tunnel.bench.lab.configs import LabConfig, LabIngress, LabPeer
from tunnel.bench.lab.daemons import CONFIG, Daemon
from tunnel.bench.lab.host_plan import LabHostPlan
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.programs import Started
from tunnel.errors import TunnelError, UnreachableError
from tunnel.proof import local_daemon

ENTRY = LabIngress("hostb", "tcp:127.0.1.2:49152")


def _daemon(plan: LabHostPlan, tmp: Path, *argv: str, text: str = "[host]\n") -> Daemon:
    """Return a daemon that is another program, which needs no host."""
    plan.outside(CONFIG).parent.mkdir(parents=True, exist_ok=True)
    return Daemon(plan, text, lambda _: Started(HERE, argv, tmp))


def test_the_daemon_is_this_checkouts(plans: tuple[LabHostPlan, LabHostPlan], tmp: Path) -> None:
    asked: list[Sequence[str]] = []

    def start(argv: Sequence[str]) -> Started:
        asked.append(argv)
        return Started(HERE, ["true"], tmp)

    plans[0].outside(CONFIG).parent.mkdir(parents=True)
    daemon = Daemon(plans[0], "[host]\n", start)
    assert asked == [[sys.executable, "-m", "tunnel.cli.main", "serve"]]  # CONFIG is its default
    assert plans[0].outside(CONFIG).read_text() == "[host]\n"
    assert daemon.process.wait() == daemon.stop() == 0


def test_the_output_of_a_daemon_that_exits_is_in_the_error(
    plans: tuple[LabHostPlan, LabHostPlan], tmp: Path
) -> None:
    daemon = _daemon(plans[0], tmp, "sh", "-c", "echo a mistake; exit 2")
    with pytest.raises(TunnelError, match=r"mtunnel on hosta exited\n  a mistake"):
        daemon.wait_serving()
    assert (daemon.running, daemon.log) == (False, "a mistake\n")


def test_a_daemon_that_does_not_serve_is_unreachable(
    plans: tuple[LabHostPlan, LabHostPlan], tmp: Path
) -> None:
    daemon = _daemon(plans[0], tmp, "sleep", "300")
    with pytest.raises(UnreachableError):
        daemon.status()
    daemon.kill()
    assert not daemon.running


def test_links_are_found_by_peer(
    plans: tuple[LabHostPlan, LabHostPlan], tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer: dict[str, Any] = {"host": "hosta", "links": [{"peer": "hostb", "state": "up"}]}
    monkeypatch.setattr(local_daemon, "ask_status", lambda path: answer)
    daemon = _daemon(plans[0], tmp, "sleep", "300")
    daemon.wait_linked("hostb")
    with pytest.raises(TunnelError, match="hosta has no peer hostc"):
        daemon.link("hostc")
    daemon.signal(signal.SIGKILL)
    daemon.process.wait()


@pytest.mark.root
def test_both_are_linked_with_the_firewalls_closed(lab: Lab) -> None:
    a, b = lab.start_daemons([ENTRY])
    assert a.link("hostb")["state"] == b.link("hosta")["state"] == "up"
    assert psutil.Process(a.pid).cmdline()[-1] == "serve"
    assert lab.b.firewall.refused() == {}
    listening = lab.a.run(["ss", "-Hltn"]).stdout
    assert "127.0.1.2:49152" in listening


@pytest.mark.root
def test_a_link_over_the_second_interface(lab: Lab) -> None:
    a, b = (host.plan for host in lab.hosts)
    lab.b.start_daemon(LabConfig(b, [LabPeer("hosta", f"{a.second_address}:16515")]))
    peer = LabPeer("hostb", f"{b.second_address}:16515")
    daemon = lab.a.start_daemon(LabConfig(a, [peer], [ENTRY]))
    daemon.wait_linked("hostb")
    assert daemon.link("hostb")["lanes"][0]["remote"] == "198.51.100.2:16515"


@pytest.mark.root
def test_a_killed_daemon_can_be_restarted(lab: Lab) -> None:
    a, b = lab.start_daemons([ENTRY])
    before = b.pid
    b.kill()
    assert not b.running
    b.restart()
    assert b.pid != before
    a.wait_linked("hostb")


@pytest.mark.root
def test_an_invalid_configuration_fails_the_start(lab: Lab) -> None:
    with pytest.raises(TunnelError, match=r"(?s)mtunnel on hosta exited.*host.colour"):
        lab.a.start_daemon(LabConfig(lab.a.plan, [], host={"colour": "red"}))
