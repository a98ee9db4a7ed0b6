"""Many guests with many channels each, simultaneously: they arrive, wait, or are refused with a reason."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.support.daemons import TwoHosts, until
from tests.support.streams import Target, connect, exchange

GUESTS = 16
CHANNELS = 17  # the main one, and 16 of multifd


def test_sixteen_guests_with_sixteen_channels_each_arrive(hosts: TwoHosts, tmp: Path) -> None:
    with ExitStack() as stack:
        targets = [stack.enter_context(Target(tmp / f"guest{number}")) for number in range(GUESTS)]
        ways = [(target.address, f"{target.address}-in") for target in targets]
        entries = [hosts.a.leads_to(hosts.b, target, entry) for target, entry in ways]
        hosts.start()
        # Each guest's next channel while those of the others are still being opened.
        rounds = [[stack.enter_context(connect(entry)) for entry in entries] for _ in range(CHANNELS)]
        for callers in rounds:
            for caller, target in zip(callers, targets, strict=True):
                exchange(caller, stack.enter_context(target.accept()))
        assert len(hosts.a.link(hosts.b)["streams"]) == GUESTS * CHANNELS
        assert "connection refused" not in hosts.a.log


def test_more_connections_than_streams_wait_for_one_to_end(hosts: TwoHosts, target: Target) -> None:
    hosts.b.transport["streams"] = 16
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.start()
    with ExitStack() as stack:
        first = [stack.enter_context(connect(entry)) for _ in range(16)]
        called = [stack.enter_context(target.accept()) for _ in first]
        until(lambda: hosts.a.link(hosts.b)["streams_vacant"] == 0, "for the limit")
        late = stack.enter_context(connect(entry))
        first[0].close()
        called[0].close()
        exchange(late, stack.enter_context(target.accept()))
    hosts.b.wait_log(r"stream limit reached.*16 streams open, the limit here \(transport\.streams\)")
