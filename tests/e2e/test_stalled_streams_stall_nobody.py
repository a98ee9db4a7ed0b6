"""A target that does not read blocks only its own caller, no other stream, and memory use stays bounded."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.daemons import TwoHosts
from tests.support.streams import QUIET, Target, connect, exchange, fill, receive_all, send_bulk
from tunnel.units import MIB
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
            buffers = 3 * MIB  # of unix sockets: 1 MiB towards the target, which the kernel doubles
            assert INITIAL_WINDOW <= sent <= INITIAL_WINDOW + buffers
            [stream] = hosts.b.link(hosts.a)["streams"]
            assert stream["backlog"] <= INITIAL_WINDOW
            grown = [host.rss - rss for host, rss in zip((hosts.a, hosts.b), before, strict=True)]
            assert max(grown) < 32 * MIB


def fill_all(callers: list[socket.socket], most: int) -> None:
    """Send on all callers until all are blocked: at most ``most`` bytes."""
    poll, piece, sent = select.poll(), bytes(MIB), 0
    by_descriptor = {caller.fileno(): caller for caller in callers}
    for caller in callers:
        caller.setblocking(False)
        poll.register(caller, select.POLLOUT)
    while ready := poll.poll(QUIET * 1000):
        for descriptor, _ in ready:
            with suppress(BlockingIOError):
                sent += by_descriptor[descriptor].send(piece)
        assert sent < most


@contextmanager
def stalled(entry: str, target: Target, count: int, most: int) -> Iterator[None]:
    """``count`` streams whose target does not read, with all windows filled."""
    with ExitStack() as stack:
        callers = []
        for _ in range(count):
            callers.append(stack.enter_context(connect(entry)))
            stack.enter_context(target.accept())
        fill_all(callers, most)
        yield


def test_many_stalled_streams_stay_within_the_budget(hosts: TwoHosts, tmp: Path) -> None:
    hosts.a.transport = hosts.b.transport = {"memory": "64MiB"}
    with Target(tmp / "target") as target:
        entry = hosts.a.leads_to(hosts.b, target.address, f"unix:{tmp}/entry")
        hosts.start()
        with stalled(entry, target, 32, 256 * MIB):
            # Beyond the budget, in MiB: a daemon (75), 32 minimum windows of 1, partial slabs (32 to 64).
            assert max(hosts.a.rss, hosts.b.rss) < 64 * MIB + 150 * MIB
            with connect(entry) as caller, target.accept() as called:
                exchange(caller, called)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("64MiB", "64MiB"), ("256MiB", "256MiB"), ("64MiB", "1GiB"), ("256MiB", "64MiB")]
)
@pytest.mark.parametrize("count", [16, 255])
def test_a_stream_is_not_slowed_down_by_many_stalled_ones(
    hosts: TwoHosts, tmp: Path, background: ThreadPoolExecutor, count: int, ours: str, theirs: str
) -> None:
    """For any memory limits. (``tests/wire/test_starvation.py`` and benchmarks measure the exact rate.)"""

    def crossing(size: int) -> float:
        began = time.monotonic()
        with connect(entry) as one, target.accept() as two:
            sending = background.submit(send_bulk, one, size)
            assert receive_all(two) == sending.result()
        return time.monotonic() - began

    hosts.a.transport, hosts.b.transport = {"memory": ours}, {"memory": theirs}
    with Target(tmp / "target", backlog=300) as target:
        entry = hosts.a.leads_to(hosts.b, target.address, f"unix:{tmp}/entry")
        hosts.start()
        alone = crossing(64 * MIB)
        with stalled(entry, target, count, 4096 * MIB):
            assert crossing(64 * MIB) < 4 * alone + 2, "256 KiB every few seconds would take minutes"
