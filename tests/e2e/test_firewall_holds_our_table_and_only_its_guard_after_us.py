"""The daemon's table redirects while the daemon runs, and is restored if damaged; no other table changes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.daemons import Host, TwoHosts
from tests.support.namespace import nft, ruleset, tables
from tests.support.streams import Target, connect, exchange
from tunnel.host.guard_route import installed
from tunnel.proof.local_daemon import MTUNNEL

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("network")]

LISTEN = "redirect:127.0.1.2:49152-49215"
SAME = "tcp:127.0.0.1:49152-49215"
ENTRY = "tcp:127.0.1.2:49160"
TABLE = "mtunnel-hosta"
WITHOUT_NET_ADMIN = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", "--")


@pytest.fixture
def pair(network: None, hosts: TwoHosts) -> TwoHosts:
    """Two hosts and a firewall of the operator; host a has the range for b."""
    nft("add table ip operator; add chain ip operator out { type nat hook output priority -100; }")
    nft("add rule ip operator out ip daddr 127.0.9.9 tcp dport 80 redirect to :8080")
    nft("add table inet mtunnel; add set inet mtunnel hosts { type ipv4_addr; }")
    hosts.a.leads_to(hosts.b, SAME, LISTEN)
    return hosts


def works() -> None:
    with Target(port=49160) as target, connect(ENTRY) as caller, target.accept() as called:
        exchange(caller, called)


def guard(host: Host, *options: str) -> str:
    """Run ``mtunnel guard``; return its output."""
    argv = [*MTUNNEL, "guard", "--config", str(host.write_config()), *options]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30)
    return done.stdout


def refused(host: Host, command: str, *prefix: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a command that must exit with code 2; return its error output."""
    argv = [*prefix, *MTUNNEL, command, "--config", str(host.write_config())]
    ended = subprocess.run(
        argv, check=False, capture_output=True, text=True, timeout=30, env=environment, cwd=host.directory
    )
    assert ended.returncode == 2, ended
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    return ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_redirect_exists_as_long_as_the_daemon(pair: TwoHosts, number: signal.Signals) -> None:
    before = ruleset()
    pair.start()
    assert tables() == ["operator", "mtunnel", TABLE]
    assert ruleset().startswith(before)
    works()
    pair.a.signal(number)
    assert pair.a.wait() == 0
    assert ruleset().startswith(before)
    assert "redirect" not in nft("list", "table", "ip", TABLE)
    with pytest.raises(ConnectionRefusedError):
        connect(ENTRY)
    guard(pair.a, "--remove")
    assert ruleset() == before


def test_killed_daemon_leaves_the_guard_and_the_next_one_redirects_again(pair: TwoHosts) -> None:
    pair.start()
    [first] = pair.a.status()["ingresses"]
    pair.a.kill()
    assert TABLE in tables()
    with pytest.raises(ConnectionRefusedError):
        connect(ENTRY)
    nft("add", "chain", "ip", TABLE, "stray")
    with socket.create_server(("127.0.0.1", first["port"])):  # so that the next daemon gets another port
        pair.a.start()
        pair.wait_up()
        ours = nft("list", "table", "ip", TABLE)
        assert ours.count("redirect to") == 1
        assert "stray" not in ours
        works()


@pytest.mark.parametrize(
    "damage", [f"delete table ip {TABLE}", f"flush table ip {TABLE}", "flush ruleset"], ids=lambda each: each
)
def test_removed_rules_are_restored(pair: TwoHosts, damage: str) -> None:
    pair.start()
    before = nft("list", "table", "ip", TABLE)
    nft(damage)
    pair.a.wait_log("redirects changed.*done=repair")
    assert nft("list", "table", "ip", TABLE) == before
    works()


def test_reload_reinstalls_the_rules(pair: TwoHosts) -> None:
    pair.start()
    before = nft("list", "table", "ip", TABLE)
    pair.a.signal(signal.SIGHUP)
    pair.a.wait_log("redirects changed.*done=repair")
    assert nft("list", "table", "ip", TABLE) == before
    works()
    assert "the configuration is not read again" in pair.a.log


def test_daemons_on_one_machine_have_a_table_each(pair: TwoHosts) -> None:
    pair.b.leads_to(pair.a, "tcp:127.0.0.1:49300-49310", "redirect:127.0.1.1:49300-49310")
    pair.start()
    assert set(tables()) == {"operator", "mtunnel", TABLE, "mtunnel-hostb"}
    pair.b.signal(signal.SIGTERM)
    assert pair.b.wait() == 0
    guard(pair.b, "--remove")
    assert tables() == ["operator", "mtunnel", TABLE]
    assert installed() == {"127.0.1.2"}


def test_failed_start_leaves_the_running_daemons_table_alone(pair: TwoHosts) -> None:
    pair.start()
    before = ruleset()
    assert "is this daemon already running?" in refused(pair.a, "serve")
    assert ruleset() == before
    works()


@pytest.mark.parametrize("command", ["serve", "check"])
def test_missing_capability_is_reported_in_one_line(pair: TwoHosts, command: str) -> None:
    head, line = refused(pair.a, command, *WITHOUT_NET_ADMIN).splitlines()
    assert head == f"error: {pair.a.config}: 1 problem"
    assert line == (
        "  ingress[0].listen: redirect needs the capability CAP_NET_ADMIN, which this process does not have:"
        " run it as root, or use tcp: or unix:"
    )
    assert TABLE not in tables()


def test_kernel_without_nftables_ends_the_start(pair: TwoHosts, tmp: Path) -> None:
    (tmp / "nft").write_text("#!/bin/sh\necho 'Error: Could not process rule: Not supported' >&2\nexit 1\n")
    (tmp / "nft").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp}:{os.environ['PATH']}"}
    lines = refused(pair.a, "serve", environment=environment).splitlines()
    assert lines[-1] == (
        f"error: cannot change the nftables table {TABLE}: Error: Could not process rule: Not supported"
        " (redirect needs CAP_NET_ADMIN and a kernel with nftables and NAT)"
    )
    assert not pair.a.control.exists()


def test_check_reports_success_and_changes_nothing(pair: TwoHosts) -> None:
    before = ruleset()
    argv = [*MTUNNEL, "check", "--config", str(pair.a.write_config())]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30)
    assert f"{LISTEN} -> same port" in done.stdout
    assert ruleset() == before
