"""A draining daemon is reported as the reason why a migration cannot start, before libvirt is called."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemons import TwoHosts, until
from tests.support.streams import Target, connect, exchange
from tunnel.errors import UnreachableError
from tunnel.proof.local_daemon import MTUNNEL


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
        until(lambda: host.status()["draining"], "for the drain to begin")
        argv = [*MTUNNEL, "migrate", "web1", "hostb", "--config", str(hosts.a.config)]
        ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode == UnreachableError.exit_code
        assert words in ended.stderr
        assert "libvirt" not in ended.stderr
        exchange(caller, called)


ANSWERS = {"query-name": {"name": "web1"}, "query-uuid": {"UUID": "00000000-0000-0000-0000-000000000000"}}


def serve_monitor(server: socket.socket, asked: Callable[[], None]) -> None:
    """Serve one client as the QMP socket of a QEMU that runs web1; call ``asked`` on query-name."""
    client, _ = server.accept()
    with client:
        version = {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}
        say(client, {"QMP": {"version": version, "capabilities": []}})
        while text := client.recv(65536):  # one command, without a newline; the next waits for the reply
            command = json.loads(text)
            if (name := command.pop("execute")) == "query-name":
                asked()
            say(client, {"return": ANSWERS.get(name, {}), **command})  # an id, if it has one


def say(client: socket.socket, answer: dict[str, object]) -> None:
    client.sendall(json.dumps(answer).encode() + b"\r\n")


def test_a_drain_that_begins_after_the_check_of_the_link_is_reported(
    hosts: TwoHosts, target: Target, tmp: Path
) -> None:
    """The connection to the destination's monitor is then refused by the daemon of this host."""
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.a.leads_to(hosts.b, f"unix:{tmp}/waiting.qmp", f"unix:{tmp}/far.qmp")
    hosts.start()

    def drain() -> None:
        hosts.a.signal(signal.SIGTERM)
        until(lambda: hosts.a.status()["draining"], "for the drain to begin")

    with (
        socket.create_server(f"{tmp}/source.qmp", family=socket.AF_UNIX) as server,
        connect(entry) as caller,
        target.accept() as called,
    ):
        exchange(caller, called)
        threading.Thread(target=serve_monitor, args=(server, drain), daemon=True).start()
        argv = [*MTUNNEL, "migrate", "web1", "hostb", "--config", str(hosts.a.config)]
        argv += ["--qmp", f"{tmp}/source.qmp", "--dest-qmp", f"{tmp}/far.qmp"]
        ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        assert "The tunnel reports: connection refused: this host is stopping" in ended.stderr
        assert ended.returncode == UnreachableError.exit_code, ended.stderr
        exchange(caller, called)
