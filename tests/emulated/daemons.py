"""Two daemons on a kernel that has TLS: ``test_emulated_kernel`` runs this in a virtual machine.

They are separate processes, ``mtunnel serve``, with their own configurations and certificates. Tests check
the output of ``mtunnel status`` and ``mtunnel check``, and the bytes that arrive.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.support.configs import HOST, TLS, write_config
from tests.support.cutter import Cutter
from tests.support.daemons import WITHIN, TwoHosts, is_idle, until
from tests.support.pki import Pki
from tests.support.streams import Target, connect, send_bulk
from tunnel.certs.profile import Validity
from tunnel.daemon.control_socket import DaemonStatus
from tunnel.proof.local_daemon import MTUNNEL
from tunnel.records.key_schedule import SUITES
from tunnel.units import MIB

pytestmark = pytest.mark.timeout(300)

SIZE = 2 * MIB
"""Bytes that a stream carries each way."""

REASONS = {
    "kernel": f"the self-test passed with {', '.join(SUITES)}",
    "userspace": "set in the configuration",
}
"""The reason that a daemon reports for its lane kind, by ``lane`` in its configuration."""


@dataclass
class Pair:
    """Two linked daemons, a cutter between them, and the endpoints of their streams."""

    hosts: TwoHosts
    cutter: Cutter
    entry: str
    target: Target

    @contextmanager
    def stream(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        """Open a stream, and end it in both directions and both daemons afterwards."""
        with connect(self.entry) as caller, self.target.accept() as called:
            yield caller, called
            for sock in (caller, called):
                sock.shutdown(socket.SHUT_WR)
            assert (caller.recv(1), called.recv(1)) == (b"", b"")
        for host, peer in self.hosts.both_ways:
            until(partial(is_idle, host, peer), "for the stream to end")

    def resumes(self) -> tuple[int, ...]:
        """Number of lost lanes that each daemon has replaced."""
        return tuple(host.link(peer)["resumes"] for host, peer in self.hosts.both_ways)

    def rotations(self) -> tuple[int, ...]:
        """Number of rotations of each daemon."""
        return tuple(host.link(peer)["rotation"]["rotations"] for host, peer in self.hosts.both_ways)


@contextmanager
def linked(directory: Path, ours: str, theirs: str) -> Iterator[Pair]:
    """Run two daemons with ``lane`` set to ``ours`` and ``theirs``."""
    with TwoHosts(directory) as hosts, Target() as target, Cutter(hosts.b.address) as cutter:
        hosts.a.knows(hosts.b, cutter.address)
        hosts.a.transport, hosts.b.transport = {"lane": ours}, {"lane": theirs}
        entry = hosts.a.leads_to(hosts.b, target.address)
        hosts.start()
        yield Pair(hosts, cutter, entry, target)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two daemons configured for kernel lanes."""
    with linked(tmp_path_factory.mktemp("kernels"), "kernel", "kernel") as pair:
        yield pair


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two daemons, the first configured for kernel lanes, the other for userspace lanes."""
    with linked(tmp_path_factory.mktemp("mixed"), "kernel", "userspace") as pair:
        yield pair


def carry(*ends: socket.socket) -> None:
    """Send ``SIZE`` bytes in both directions simultaneously, and check that they arrive unchanged."""
    with ThreadPoolExecutor(4) as threads:
        sending = [threads.submit(send_bulk, end, SIZE, end=False) for end in ends]
        receiving = [threads.submit(digest, end, SIZE) for end in reversed(ends)]
    assert [each.result() for each in sending] == [each.result() for each in receiving]


def digest(sock: socket.socket, count: int) -> str:
    """Receive ``count`` bytes, or fewer if it ends early; return their digest."""
    found = hashlib.blake2b()
    while count and (chunk := sock.recv(min(count, 256 * 1024))):
        found.update(chunk)
        count -= len(chunk)
    return found.hexdigest()


def says(command: str, config: Path, *options: str) -> str:
    """Return what ``mtunnel`` prints with this configuration; it takes seconds to start."""
    argv = [*MTUNNEL, command, "--config", str(config), *options]
    answer = subprocess.run(argv, capture_output=True, text=True, timeout=WITHIN, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def is_as_told(facts: DaemonStatus, choice: str) -> str:
    """Check the kind of a daemon's lanes, and its reason, for ``lane`` = ``choice``; return the kind."""
    lane = facts["lane"]
    costs, kind = lane["cpu_seconds_per_gib"], str(lane["kind"])
    if choice != "auto":
        assert (kind, lane["reason"], costs) == (choice, REASONS[choice], None)
        return kind
    assert costs is not None
    if costs["kernel"] is None:  # an emulated CPU may be too slow
        assert kind == "userspace"
        assert "kernel lanes were not measured: only" in lane["reason"]
    else:
        assert (kind == "kernel") == (costs["userspace"] is None or costs["kernel"] < costs["userspace"])
    return kind


def has_carried(facts: DaemonStatus, kind: str) -> None:
    """Check in ``status`` that one lane of this kind carried ``SIZE`` bytes each way, of one stream."""
    (link,) = facts["links"]
    (lane,), (stream,) = link["lanes"], link["streams"]
    assert (lane["kind"], lane["cipher"]) == (kind, next(iter(SUITES)))
    assert (stream["bytes_from_local"], stream["bytes_to_local"], stream["backlog"]) == (SIZE, SIZE, 0)


def test_daemons_configured_for_kernel_lanes_use_them_and_count_delivered_bytes(kernels: Pair) -> None:
    hosts = kernels.hosts
    with kernels.stream() as ends:
        carry(*ends)
        with ThreadPoolExecutor(2) as threads:
            asked = [threads.submit(says, "status", host.config, "--json") for host in (hosts.a, hosts.b)]
        for facts in (json.loads(each.result()) for each in asked):
            assert is_as_told(facts, "kernel") == "kernel"
            has_carried(facts, "kernel")


def test_a_kernel_lane_cut_amid_a_transfer_is_replaced_and_no_byte_is_lost(kernels: Pair) -> None:
    before = kernels.resumes()
    with kernels.stream() as ends:
        kernels.cutter.cut_after(SIZE)
        carry(*ends)
        assert kernels.cutter.cuts_left == 0
        until(lambda: kernels.resumes() == tuple(count + 1 for count in before), "for a new lane")
        for host, peer in kernels.hosts.both_ways:
            has_carried(host.status(), "kernel")
            assert any("reset" in reason.lower() for reason in host.reasons(peer)), host.reasons(peer)


def understand_each_other(pair: Pair, ours: str, theirs: str) -> None:
    with pair.stream() as ends:
        carry(*ends)
        for (host, _), choice in zip(pair.hosts.both_ways, (ours, theirs), strict=True):
            facts = host.status()
            has_carried(facts, is_as_told(facts, choice))


def test_kernel_and_userspace_lanes_interoperate(mixed: Pair) -> None:
    understand_each_other(mixed, "kernel", "userspace")


def test_a_daemon_with_lane_auto_interoperates(tmp: Path) -> None:
    with linked(tmp, "userspace", "auto") as pair:
        understand_each_other(pair, "userspace", "auto")


def lane_is_replaced(pair: Pair, ours: str, theirs: str) -> None:
    """Renew a certificate while a stream is active, and check stream and lane."""
    with pair.stream() as ends:
        pair.hosts.pki.authority.issue("hosta", validity=Validity.lasting(90), force=True)
        pair.hosts.a.signal(signal.SIGHUP)
        carry(*ends)
        until(lambda: pair.rotations() == (1, 1), "for a new lane")
        for (host, _), choice in zip(pair.hosts.both_ways, (ours, theirs), strict=True):
            has_carried(host.status(), choice)
        carry(*ends)
        assert pair.resumes() == (0, 0)


def test_a_lane_with_the_kernel_at_the_dialing_end_is_rotated_while_streams_are_active(mixed: Pair) -> None:
    lane_is_replaced(mixed, "kernel", "userspace")


def test_a_lane_with_the_kernel_at_the_accepting_end_is_rotated_while_streams_are_active(tmp: Path) -> None:
    with linked(tmp, "userspace", "kernel") as pair:
        lane_is_replaced(pair, "userspace", "kernel")


def test_check_reports_kernel_lanes(tmp: Path) -> None:
    Pki(tmp).host("hosta")
    config = write_config(tmp, HOST, TLS, '[transport]\nlane = "kernel"\n')
    assert f"kernel lanes: {REASONS['kernel']}\n" in says("check", config)


def test_check_reports_both_costs(tmp: Path) -> None:
    Pki(tmp).host("hosta")
    config = write_config(tmp, HOST, TLS)
    output = says("check", config)
    assert re.search(
        r"^  encryption  \w+ lanes \((neither kind|\d+\.\d\d CPU s/GiB; in the )", output, re.MULTILINE
    )
    is_as_told(json.loads(says("check", config, "--json")), "auto")
