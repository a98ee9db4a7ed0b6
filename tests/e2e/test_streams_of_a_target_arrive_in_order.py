"""The k-th connection of a caller is the k-th that the target accepts: QEMU's channels depend on it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.daemons import TwoHosts, until
from tests.support.streams import Target, connect, receive

COUNT = 64


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_many_at_once(hosts: TwoHosts, tmp: Path, kind: str) -> None:
    path = tmp / "target" if kind == "unix" else None
    with Target(path, backlog=1 if path else COUNT) as target, ExitStack() as stack:
        entry = hosts.a.leads_to(hosts.b, target.address)
        hosts.start()
        for number in range(COUNT):
            caller = stack.enter_context(connect(entry))
            caller.sendall(number.to_bytes(4))
        arrived = [receive(stack.enter_context(target.accept()), 4) for _ in range(COUNT)]
        assert [int.from_bytes(each) for each in arrived] == list(range(COUNT))


def test_callers_that_connect_before_the_link_is_up(hosts: TwoHosts, target: Target) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.a.start()
    hosts.a.wait_serving()
    with ExitStack() as stack:
        for number in range(8):
            caller = stack.enter_context(connect(entry))
            caller.sendall(bytes([number]))
        hosts.b.start()
        hosts.wait_up()
        arrived = [receive(stack.enter_context(target.accept()), 1) for _ in range(8)]
    assert arrived == [bytes([number]) for number in range(8)]


def test_target_that_listens_late(hosts: TwoHosts, tmp: Path) -> None:
    """With several workers each stream waits for the reply to the previous one."""
    path = tmp / "late"
    entry = hosts.a.leads_to(hosts.b, f"unix:{path}")
    hosts.start()
    with ExitStack() as stack:
        for number in range(8):
            caller = stack.enter_context(connect(entry))
            caller.sendall(bytes([number]))
        asked = 1 if hosts.a.workers > 1 else 8
        until(lambda: hosts.a.link(hosts.b)["streams_opened"] == asked, "for the callers to be admitted")
        with Target(path) as target:
            arrived = [receive(stack.enter_context(target.accept()), 1) for _ in range(8)]
    assert arrived == [bytes([number]) for number in range(8)]
