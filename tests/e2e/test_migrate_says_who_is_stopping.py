"""A daemon that drains is named as the reason why a migration cannot begin, before libvirt is asked."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.daemons import MTUNNEL, TwoHosts, until
from tests.support.streams import Target, connect, exchange
from tunnel.errors import UnreachableError


@pytest.mark.parametrize(("stopping", "words"), [("a", "this host is stopping"), ("b", "hostb is stopping")])
def test_migration_does_not_begin(
    hosts: TwoHosts, target: Target, tmp: Path, stopping: str, words: str
) -> None:
    port = target.address.rpartition(":")[2]
    entry = hosts.a.leads_to(hosts.b, target.address, f"tcp:127.0.1.2:{port}")
    hosts.a.leads_to(hosts.b, "unix:/run/libvirt/libvirt-sock", f"unix:{tmp}/libvirt-sock")
    hosts.start()
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)
        host = hosts.a if stopping == "a" else hosts.b
        host.signal(signal.SIGTERM)
        until("the drain to begin", lambda: host.status()["draining"])
        argv = [*MTUNNEL, "migrate", "web1", "hostb", "--config", str(hosts.a.config)]
        ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode == UnreachableError.exit_code
        assert words in ended.stderr
        assert "libvirt" not in ended.stderr
        exchange(caller, called)
