"""No unprivileged process on the source host ever receives a byte meant for the peer of a redirect."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.daemons import TwoHosts, until
from tests.support.namespace import nft, tables
from tests.support.streams import Target, connect, exchange
from tests.support.users import NOBODY, acting_as
from tunnel.host import guard_route
from tunnel.proof.local_daemon import MTUNNEL

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("network")]

ALIAS, PORT = "127.0.1.2", 49160
LISTEN = f"redirect:{ALIAS}:49152-49215"
SAME = "tcp:127.0.0.1:49152-49215"
TABLE = "mtunnel-hosta"


@pytest.fixture
def thief(network: None) -> Iterator[socket.socket]:
    """A listener of an unprivileged user on all addresses, bound before the daemon starts."""
    with acting_as(NOBODY):
        listener = socket.create_server(("0.0.0.0", PORT))
    with listener:
        listener.setblocking(False)
        yield listener


@pytest.fixture
def pair(network: None, hosts: TwoHosts) -> TwoHosts:
    """Two hosts; host a has the range for b."""
    hosts.a.leads_to(hosts.b, SAME, LISTEN, users=("root",))
    return hosts


def stolen(thief: socket.socket) -> bool:
    """Connect as QEMU would, as root, and return whether the thief received the connection."""
    try:
        with socket.create_connection((ALIAS, PORT), 0.5) as caller:
            caller.sendall(b"QEVM")
    except OSError:
        pass
    try:
        thief.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def kill(pair: TwoHosts) -> None:
    pair.a.kill()


def kill_and_flush(pair: TwoHosts) -> None:
    pair.a.kill()
    nft("flush", "ruleset")


def stop(pair: TwoHosts) -> None:
    pair.a.signal(signal.SIGTERM)
    assert pair.a.wait() == 0


def stop_and_flush(pair: TwoHosts) -> None:
    stop(pair)
    nft("flush", "ruleset")


def untrack(pair: TwoHosts) -> None:
    nft("add table ip x; add chain ip x out { type filter hook output priority raw; }")
    nft("add rule ip x out oif lo notrack")


DAMAGES = [kill, kill_and_flush, stop, stop_and_flush, untrack]


def test_without_the_daemon_any_listener_gets_it(thief: socket.socket) -> None:
    assert stolen(thief), "otherwise the other tests would be meaningless"


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda each: each.__name__)
def test_no_other_user_gets_it(
    pair: TwoHosts, thief: socket.socket, damage: Callable[[TwoHosts], None]
) -> None:
    pair.start()
    damage(pair)
    assert not stolen(thief)


def test_not_even_immediately_after_a_flush(pair: TwoHosts, thief: socket.socket) -> None:
    pair.start()
    for _ in range(5):
        nft("flush", "ruleset")
        assert not stolen(thief)
    until(lambda: TABLE in tables(), "for the table to be restored")


def test_port_behind_the_redirect_is_not_available_to_users_after_kill(pair: TwoHosts) -> None:
    pair.start()
    [ingress] = pair.a.status()["ingresses"]
    pair.a.kill()
    assert TABLE in tables()
    with acting_as(NOBODY), pytest.raises(PermissionError):
        socket.create_server(("127.0.0.1", ingress["port"]))


def test_guard_command_protects_before_the_first_start(pair: TwoHosts, thief: socket.socket) -> None:
    argv = [*MTUNNEL, "guard", "--config", str(pair.a.write_config())]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout == f"guarded: {ALIAS}\n"
    assert not stolen(thief)
    nft("flush", "ruleset")
    assert not stolen(thief)
    pair.start()
    thief.close()
    with Target(port=PORT) as target, connect(f"tcp:{ALIAS}:{PORT}") as caller, target.accept() as called:
        exchange(caller, called)


def test_guard_while_the_daemon_runs_changes_nothing(pair: TwoHosts) -> None:
    pair.start()
    before = nft("list", "table", "ip", TABLE)
    argv = [*MTUNNEL, "guard", "--config", str(pair.a.config)]
    subprocess.run(argv, check=True, capture_output=True, timeout=30)
    assert nft("list", "table", "ip", TABLE) == before


def test_configuration_without_a_redirect_removes_its_rules(pair: TwoHosts) -> None:
    pair.start()
    pair.a.kill()
    pair.a.ingresses.clear()
    pair.a.start()
    pair.a.wait_serving()
    until(lambda: not tables() and not guard_route.installed(), "for the rules to be removed")


def test_every_command_reports_that_connections_are_not_redirected(pair: TwoHosts) -> None:
    pair.start()
    untrack(pair)
    reason = f"a probe connection to {ALIAS}:49152 did not arrive: Connection refused"
    [ingress] = pair.a.status()["ingresses"]
    assert ingress["redirect"] == {"works": False, "reason": reason}
    said = run(pair, "status")
    assert f"NOT REDIRECTED: {reason}" in said.stdout
    said = run(pair, "check")
    assert said.returncode == 2
    assert f"ingress[0].listen: connections are not redirected: {reason}" in said.stderr
    said = run(pair, "migrate", "web1", "hostb", "--qmp", "/nowhere")
    assert said.returncode == 4
    assert re.search(f"{re.escape(LISTEN)} does not lead to hostb: .*{re.escape(reason)}", said.stderr)
    nft("delete table ip x")
    [ingress] = pair.a.status()["ingresses"]
    assert ingress["redirect"] == {"works": True, "reason": None}
    assert run(pair, "check").returncode == 0


def test_ingress_with_one_port_at_the_same_alias_is_guarded_too(pair: TwoHosts) -> None:
    with ExitStack() as stack:
        target = stack.enter_context(Target())
        entry = pair.a.leads_to(pair.b, target.address, f"tcp:{ALIAS}:16509", users=("root",))
        pair.start()
        caller = stack.enter_context(connect(entry))
        exchange(caller, stack.enter_context(target.accept()))
        [_, ingress] = pair.a.status()["ingresses"]
        assert ingress["listen"] == entry
        assert ingress["redirect"] == {"works": True, "reason": None}


def test_check_reports_what_is_not_guarded_yet(pair: TwoHosts) -> None:
    pair.a.leads_to(pair.b, "tcp:127.0.0.1:1", "tcp:127.0.1.9:49152", users=("root",))
    pair.a.write_config()
    facts = json.loads(run(pair, "check", "--json").stdout)
    assert [each["key"] for each in facts["warnings"]] == ["ingress[0].listen", "ingress[1].listen"]
    assert "mtunnel guard" in facts["warnings"][0]["message"]
    assert "while the daemon is down" in facts["warnings"][1]["message"]
    pair.start()
    facts = json.loads(run(pair, "check", "--json").stdout)
    assert [each["key"] for each in facts["warnings"]] == ["ingress[1].listen"]


def run(pair: TwoHosts, command: str, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [*MTUNNEL, command, "--config", str(pair.a.config), *words]
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)
