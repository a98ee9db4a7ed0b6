"""Whatever happens to stderr, a daemon starts, carries streams and exits; its log lines are kept."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.support.daemons import TwoHosts, until
from tests.support.streams import Target, connect, exchange, turned_away

AT_ONCE = 8.0
"""Seconds, on a busy machine. The daemon waits two of them for a log that is not read."""

TROUBLE = {
    "closed": "2>&-",
    "disk full": "2>/dev/full",
    "not read": "2>fifo",
    "reader gone": "2>fifo",
}


@pytest.fixture
def fifo(hosts: TwoHosts) -> Iterator[int]:
    """Both ends of a full pipe in the directory of host a, which is not read."""
    path = hosts.a.directory / "fifo"
    os.mkfifo(path)
    ends = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    fill(ends)
    yield ends
    os.close(ends)


def fill(ends: int) -> None:
    """Fill the pipe completely: no room even for a line shorter than a page."""
    for size in (4096, 1):
        try:
            while True:
                os.write(ends, b"." * size)
        except BlockingIOError:
            continue


def leave(ends: int) -> None:
    """Close both ends; the descriptor number stays open for the fixture to close."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, ends)
    os.close(null)


@pytest.mark.parametrize("trouble", TROUBLE)
def test_migrations_are_not_affected(hosts: TwoHosts, target: Target, fifo: int, trouble: str) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.a.start(redirected=TROUBLE[trouble])
    hosts.b.start()
    hosts.wait_up()
    if trouble == "reader gone":
        leave(fifo)
    with connect(entry) as first, target.accept() as called:
        for _ in range(50):
            with connect(entry) as caller, target.accept() as other:
                exchange(caller, other)
        hosts.b.signal(signal.SIGTERM)
        until(lambda: hosts.b.status()["draining"], "for the drain to begin")
        assert turned_away(entry, 50)  # each with a warning
        exchange(first, called)
        assert "hostb is stopping" in hosts.a.reasons(hosts.b)
    hosts.a.signal(signal.SIGTERM)
    assert hosts.a.wait(AT_ONCE) == 0


def test_reader_that_comes_back_gets_all_lines(hosts: TwoHosts, target: Target, fifo: int) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.a.start(redirected="2>fifo")
    hosts.b.start()
    hosts.wait_up()
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)
    found = b""
    os.set_blocking(fifo, True)
    while b"stream closed" not in found:
        found += os.read(fifo, 65536)
    events = found.lstrip(b".").decode().splitlines()
    assert any('event="encryption: in the ' in event for event in events), "from the start on"
    assert not any("lost" in event for event in events)
