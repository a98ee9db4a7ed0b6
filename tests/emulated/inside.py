"""Tests that need a kernel with TLS: ``test_emulated_kernel`` runs this in a virtual machine."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.configs import HOST, TLS, write_config
from tests.support.lanepaths import carried
from tests.support.lanes import NAMES, Hosts
from tests.support.network import TlsPeer, tcp_pair
from tests.support.pki import Pki
from tests.support.relays import content, relaying
from tests.support.tracing import CALLS, tracing
from tests.support.waiting import until
from tunnel.daemon import config
from tunnel.daemon import preflight as preflights
from tunnel.daemon.preflight import preflight
from tunnel.lanes import lane_meter
from tunnel.lanes.kernel_tls import RECEIVE, SEND, enable, receive_record, record_number
from tunnel.lanes.kernel_tls_selftest import run_selftest
from tunnel.lanes.lane_paths import KernelPath
from tunnel.records.key_schedule import SUITES
from tunnel.records.tls_messages import DATA, RECORD, explain_record
from tunnel.tls.contexts import load
from tunnel.tls.handshake import handshake
from tunnel.tls.lane_kinds import KernelTlsSupport
from tunnel.units import MIB
from tunnel.wire.codec import encode
from tunnel.wire.frames import Ping

READS = ("read", "pread64", "readv", "recvfrom", "recvmsg", "recvmmsg")
PAYLOAD = 4 << 20
RETURNED = re.compile(r"sys_\w+ -> (0x[0-9a-f]+)")
FAILED = 1 << 63


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Hosts:
    """Two hosts with certificates."""
    return Hosts.create(tmp_path_factory.mktemp("inside") / "pki")


def test_the_self_test_passes_with_every_suite(tmp: Path) -> None:
    found = run_selftest(Pki(tmp).host("hosta"))
    assert found.suites == tuple(SUITES)
    assert "passed" in found.reason


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("dialing", [True, False], ids=["dialing", "accepting"])
async def test_each_suite_interoperates_with_another_tls(tmp: Path, suite: str, dialing: bool) -> None:
    """Python's ssl, with another OpenSSL, which sends session tickets too."""
    pki = Pki(tmp)
    ours, theirs = tcp_pair()
    with ours, theirs:
        contexts = load(pki.host("hosta"), KernelTlsSupport((suite,), ""))
        (keys, _), peer = await asyncio.gather(
            handshake(ours, contexts, NAMES, dialing=dialing),
            TlsPeer.connect(theirs, load(pki.host("hostb")), dialing=not dialing),
        )
        assert keys.cipher == suite
        enable(ours, keys)
        ours.send(encode(Ping(7)))
        await peer.read_until(lambda: peer.count(Ping))
        await peer.send(b"back")
        ours.setblocking(True)
        ours.settimeout(10)
        records = [receive_record(ours) for _ in range(3 if dialing else 1)]
        assert records.pop() == (DATA, b"back")
        assert {explain_record(*record) for record in records} <= {""}, "session tickets"
        assert record_number(ours, suite, SEND) == keys.send.records + 1
        assert record_number(ours, suite, RECEIVE) == keys.receive.records + (3 if dialing else 1)


def hypervisors(directory: Path) -> None:
    """The other process: both ends of a stream, as two QEMUs, with payload in both directions."""
    signal.alarm(60)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as caller:
        server.bind(str(directory / "target"))
        server.listen()
        caller.connect(str(directory / "entry"))
        called, _ = server.accept()
        for source, sink in ((caller, called), (called, caller)):
            sent = taken = 0
            while taken < PAYLOAD:
                if sent < PAYLOAD:
                    source.sendall(content(sent, 65536))
                    sent += 65536
                wanted = sent - taken if sent == PAYLOAD else 65536
                data = sink.recv(min(65536, wanted), socket.MSG_WAITALL)
                assert data == content(taken, len(data))
                taken += len(data)
        called.close()


@contextmanager
def other_process(directory: Path) -> Iterator[None]:
    """Run ``hypervisors`` in another process, which must succeed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            while not (directory / "entry").exists():
                os.sched_yield()
            hypervisors(directory)
            status = 0
        finally:
            os._exit(status)
    try:
        yield
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


async def carry(hosts: Hosts, kind: str, directory: Path) -> None:
    """Relay the stream of the other process, from its first byte to its last."""
    loop = asyncio.get_running_loop()
    async with relaying(hosts, (kind, kind), directory) as relay, asyncio.timeout(60):
        with socket.socket(socket.AF_UNIX) as server:
            server.setblocking(False)
            server.bind(str(directory / "new"))
            server.listen()
            (directory / "new").rename(directory / "entry")
            sock, _ = await loop.sock_accept(server)
        await relay.a.open(sock, f"unix:{directory}/target", loop.time() + 10)
        await until(lambda: relay.a.streams.pumps, "for the stream")
        await until(lambda: relay.idle, "for its end", 60)


@pytest.mark.parametrize(
    ("kind", "least", "most"), [("kernel", 0, PAYLOAD // 50), ("userspace", 4 * PAYLOAD, 1 << 40)]
)
def test_no_byte_of_payload_enters_the_process(
    hosts: Hosts, tmp: Path, kind: str, least: int, most: int
) -> None:
    """Both ends of the relay are in this process: on userspace lanes each byte enters it twice."""
    events = [f"syscalls/sys_exit_{name}" for name in READS]
    with other_process(tmp), tracing(*events) as lines:
        asyncio.run(carry(hosts, kind, tmp))
    returned = [int(found[1], 16) for line in lines if (found := RETURNED.search(line))]
    read = sum(value for value in returned if value < FAILED)
    assert least <= read <= most


@pytest.mark.parametrize(("kind", "most"), [("kernel", 10), ("userspace", 6)])
def test_system_calls_are_few(hosts: Hosts, tmp: Path, kind: str, most: int) -> None:
    """Of both ends, per record of 16 KiB: a measure of cost where time cannot be measured.

    Kernel lanes make more of them, 6.2 against 3.7: they splice record by record.
    """
    with other_process(tmp), tracing(*CALLS) as lines:
        asyncio.run(carry(hosts, kind, tmp))
    records = 2 * PAYLOAD / RECORD
    assert 1 <= len(lines) / records <= most


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the time limit of the measurement, for an emulated CPU."""
    monkeypatch.setattr(lane_meter, "PATIENCE", 60.0)
    monkeypatch.setattr(lane_meter, "ROUNDS", 2)


@pytest.mark.usefixtures("patient")
def test_auto_measures_both_kinds_and_takes_the_one_that_costs_less(tmp: Path) -> None:
    Pki(tmp).host("hosta")
    contexts = preflight(config.load(write_config(tmp, HOST, TLS)), "mtunnel.toml")
    costs = contexts.kernel.costs
    assert costs is not None
    assert isinstance(costs.kernel, float), costs
    assert isinstance(costs.userspace, float), costs
    assert min(costs.kernel, costs.userspace) > 0
    cheaper = "kernel" if costs.kernel < costs.userspace else "userspace"
    assert contexts.lane == cheaper
    assert contexts.kernel.suites == (tuple(SUITES) if cheaper == "kernel" else ())


@pytest.mark.parametrize("lane", ["kernel", "userspace"])
def test_nothing_is_measured_if_the_kind_is_configured(
    tmp: Path, lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(preflights, "measure")
    Pki(tmp).host("hosta")
    wanted = config.load(write_config(tmp, HOST, TLS, f'[transport]\nlane = "{lane}"\n'))
    contexts = preflight(wanted, "mtunnel.toml")
    assert (contexts.lane, contexts.kernel.costs) == (lane, None)


@pytest.mark.parametrize("suite", SUITES)
def test_the_measured_path_carries_payload_from_end_to_end(suite: str) -> None:
    """Encrypted, and unchanged."""
    payload = b"".join(content(start, MIB) for start in range(0, 3 * MIB, MIB))
    carried(KernelPath(suite), payload)


def test_the_measurement_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_meter, "PATIENCE", 0.0)
    costs = lane_meter.measure(next(iter(SUITES)), None)
    assert costs.kernel == costs.userspace == "only 0 KiB transferred in 0 s"
    assert not costs.kernel_wins
