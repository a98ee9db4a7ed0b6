"""A target that does not read holds its own caller back, and neither another stream nor much memory."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.daemons import TwoHosts
from tests.support.streams import MIB, QUIET, Target, connect, exchange, fill, receive_all, send_bulk
from tunnel.wire.window import INITIAL_WINDOW


def test_bulk_flows_beside_a_stalled_stream(
    hosts: TwoHosts, target: Target, background: ThreadPoolExecutor
) -> None:
    with Target() as other:
        stalled, flowing = (hosts.a.leads_to(hosts.b, each.address) for each in (target, other))
        hosts.start()
        with connect(stalled) as caller, target.accept():
            fill(caller)
            with connect(flowing) as one, other.accept() as two:
                exchange(one, two)
                sending = background.submit(send_bulk, one, 64 * MIB)
                assert receive_all(two) == sending.result()


def test_memory_stays_within_the_window(hosts: TwoHosts, tmp: Path) -> None:
    with Target(tmp / "target") as target:
        entry = hosts.a.leads_to(hosts.b, target.address, f"unix:{tmp}/entry")
        hosts.start()
        before = [host.rss for host in (hosts.a, hosts.b)]
        with connect(entry) as caller, target.accept():
            sent = fill(caller)
            buffers = 4 * 512 * 1024  # the unix sockets' on both sides: 208 KiB each where nobody changed it
            assert INITIAL_WINDOW <= sent <= INITIAL_WINDOW + buffers
            [stream] = hosts.b.link(hosts.a)["streams"]
            assert stream["backlog"] <= INITIAL_WINDOW
            grown = [host.rss - rss for host, rss in zip((hosts.a, hosts.b), before, strict=True)]
            assert max(grown) < 32 * MIB


def test_many_stalled_streams_stay_within_the_budget(hosts: TwoHosts, tmp: Path) -> None:
    hosts.a.transport = hosts.b.transport = {"memory": "64MiB"}
    with Target(tmp / "target") as target:
        entry = hosts.a.leads_to(hosts.b, target.address, f"unix:{tmp}/entry")
        hosts.start()
        pairs = [(connect(entry), target.accept()) for _ in range(32)]
        try:
            for caller, _ in pairs:
                caller.setblocking(False)
            sent, last = 0, time.monotonic()
            while time.monotonic() - last < QUIET:
                for caller, _ in pairs:
                    try:
                        sent += caller.send(bytes(MIB))
                        last = time.monotonic()
                    except BlockingIOError:
                        continue
                assert sent < 256 * MIB
            assert max(hosts.a.rss, hosts.b.rss) < 64 * MIB + 120 * MIB
            with connect(entry) as caller, target.accept() as called:
                exchange(caller, called)
        finally:
            for caller, called in pairs:
                caller.close()
                called.close()
