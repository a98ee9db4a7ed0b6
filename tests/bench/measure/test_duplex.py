"""The load of ``bench rotate``: both directions concurrently, and every wrong byte is detected."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tunnel.bench.measure.duplex import PIECE, End, be_called, call, content, exchange
from tunnel.bench.measure.endpoint import free_tcp

COUNT = 3 * PIECE + 17


@pytest.fixture
def pair() -> Iterator[tuple[End, End]]:
    """Both ends of one stream, connected directly."""
    one, other = socket.socketpair()
    with one, other:
        yield End(one, 0, called=False, count=COUNT), End(other, 0, called=True, count=COUNT)


def test_all_streams_carry_everything_both_ways() -> None:
    endpoint = free_tcp("127.0.0.1")
    ready, called = threading.Event(), list[dict[str, float]]()

    def serve() -> None:
        ready.set()
        called.append(exchange(be_called(endpoint, 3, COUNT)))

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(10)
    ends: list[End] = []
    while not ends:
        try:
            ends = call(endpoint, 3, COUNT)
        except ConnectionRefusedError:
            continue
    figures = exchange(ends)
    thread.join(20)
    for found in (figures, *called):
        assert 0 <= found["silence"] <= found["gap"] <= found["seconds"]
    assert all(end.done for end in ends)
    assert len(called) == 1


def test_no_two_streams_or_directions_carry_the_same() -> None:
    seen = {bytes(content(stream, 0, 64, called=called)) for stream in range(8) for called in (True, False)}
    assert len(seen) == 16
    assert content(1, 100, 50, called=True) == content(1, 0, 150, called=True)[100:]


@pytest.mark.parametrize("offset", [1, 16384, PIECE, 1 << 20])
def test_missing_or_duplicated_data_is_detected(pair: tuple[End, End], offset: int) -> None:
    caller, called = pair
    called.sock.sendall(content(0, offset, 1000, called=True))
    with pytest.raises(ConnectionError, match="wrong data at offset 0"):
        caller.receive(memoryview(bytearray(PIECE)), 0.0)


def test_an_early_end_is_detected(pair: tuple[End, End]) -> None:
    caller, called = pair
    called.sock.close()
    with pytest.raises(ConnectionError, match=f"ended {COUNT} bytes early"):
        caller.receive(memoryview(bytearray(PIECE)), 0.0)


def test_the_longest_gap_counts_from_the_first_byte(pair: tuple[End, End]) -> None:
    caller, called = pair
    for number, (now, gap) in enumerate(((7.0, 0.0), (7.5, 0.5), (7.6, 0.5), (9.0, 1.4))):
        called.sock.sendall(content(0, 1000 * number, 1000, called=True))
        caller.receive(memoryview(bytearray(PIECE)), now)
        assert caller.gap == pytest.approx(gap)
