"""A reset is passed on as a reset, whatever the other direction is doing, and never as a clean end.

Each row: which side resets, and how; the state of its own direction; the kind of pump.
"""

from __future__ import annotations

import asyncio
import itertools
import select
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from tests.support.links import Pair, ending, exchange, last, pipes, receive, requests_of, reset
from tests.support.waiting import until
from tunnel.relay import stream_table as module
from tunnel.relay import stream_timeouts
from tunnel.relay.pump import Pump
from tunnel.relay.spliced_pump import SplicedPump
from tunnel.units import KIB
from tunnel.wire.frames import Limits
from tunnel.wire.session import Settings

SMALL = Settings(window=64 * KIB)


@dataclass
class Ends:
    """The two hypervisors of a stream. ``survivor`` reads only when the test does."""

    pair: Pair
    doomed: socket.socket
    survivor: socket.socket
    sent: int = 0

    @property
    def streams(self) -> int:
        return len(self.pair.a.streams.pumps) + len(self.pair.b.streams.pumps)

    async def fill(self) -> None:
        """Let the doomed side send until the path to the survivor is full."""
        quiet = 0
        while quiet < 50:
            try:
                self.sent += self.doomed.send(bytes(64 * KIB))
                quiet = 0
            except BlockingIOError:
                quiet += 1
                await asyncio.sleep(0.002)


@pytest.fixture(params=[Pump, SplicedPump], ids=lambda pump: pump.__name__)
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    joined = await Pair(pump=request.param, settings=SMALL).up()
    yield joined
    joined.close()


async def stream(pair: Pair, doomed: str, *, unix: bool = False) -> Ends:
    caller, called = await pair.stream(unix=unix)
    return Ends(pair, caller, called) if doomed == "caller" else Ends(pair, called, caller)


def failed(sock: socket.socket) -> bool:
    """Whether a program that neither reads nor writes can detect the failure, by poll(2)."""
    poll = select.poll()
    poll.register(sock, 0)
    return any(mask & (select.POLLERR | select.POLLHUP) for _, mask in poll.poll(0))


# State of the doomed side's own direction.


async def idle(ends: Ends) -> None:
    await exchange(ends.doomed, ends.survivor)


async def full(ends: Ends) -> None:
    await ends.fill()


async def ended(ends: Ends) -> None:
    ends.doomed.shutdown(socket.SHUT_WR)
    assert await ending(ends.survivor) == "close"


async def other_ended(ends: Ends) -> None:
    ends.survivor.shutdown(socket.SHUT_WR)
    assert await ending(ends.doomed) == "close"
    await ends.fill()


# How it resets.


async def by_linger(ends: Ends) -> None:
    reset(ends.doomed)


async def with_bytes_unread(ends: Ends) -> None:
    """As the kernel does for a program that dies."""
    ends.survivor.send(b"never read")
    await until(lambda: select.select([ends.doomed], [], [], 0)[0], "for the bytes")
    ends.doomed.close()


async def as_bytes_come(ends: Ends) -> None:
    """The write of these gets the reset first, and a later read does not."""
    reset(ends.doomed)
    ends.survivor.send(b"x" * 1000)


Step = Callable[[Ends], Awaitable[None]]
ROWS = [
    (side, state, way)
    for side, state, way in itertools.product(
        ["caller", "called"],
        [idle, full, ended, other_ended],
        [by_linger, with_bytes_unread, as_bytes_come],
    )
    if state is not other_ended or way is by_linger  # else the survivor cannot send
]


@pytest.mark.parametrize(
    ("side", "state", "way"), ROWS, ids=lambda part: part if isinstance(part, str) else part.__name__
)
async def test_survivor_is_reset_even_without_reading(pair: Pair, side: str, state: Step, way: Step) -> None:
    ends = await stream(pair, side)
    await state(ends)
    await way(ends)
    await until(lambda: failed(ends.survivor), "for the survivor to detect it")
    assert ends.streams == 0, "both sides have forgotten the stream"
    if state is not ended:  # after a clean end the kernel reports no error to a reader
        assert await ending(ends.survivor) == "reset"


@pytest.mark.parametrize("state", [idle, full])
async def test_unix_client_that_died_with_unread_bytes_counts_as_reset(pair: Pair, state: Step) -> None:
    """Its socket returns EPIPE to a writer, as after a clean end, and the reset only to a reader."""
    ends = await stream(pair, "caller", unix=True)
    await state(ends)
    await with_bytes_unread(ends)
    await until(lambda: failed(ends.survivor), "for the survivor to detect it")
    assert await ending(ends.survivor) == "reset"


@pytest.mark.parametrize("unix", [False, True])
async def test_survivor_over_any_socket_detects_it_without_reading(pair: Pair, unix: bool) -> None:
    ends = await stream(pair, "called", unix=unix)
    await ends.fill()
    reset(ends.doomed)
    await until(lambda: failed(ends.survivor), "for the survivor to detect it")
    with pytest.raises(ConnectionError):
        ends.survivor.send(b"x")


async def test_data_before_a_reset_is_delivered_to_a_reader(pair: Pair) -> None:
    """As with TCP itself, which keeps received data."""
    ends = await stream(pair, "called")
    ends.survivor.send(b"never read")
    await until(lambda: select.select([ends.doomed], [], [], 0)[0], "for the bytes")
    ends.doomed.send(b"no such export")
    ends.doomed.close()
    assert await receive(ends.survivor, 14) == b"no such export"
    assert await ending(ends.survivor) == "reset"


async def test_reset_of_a_client_before_its_target_is_dialled_cancels_the_request(pair: Pair) -> None:
    caller = await pair.request(pair.a)
    await until(lambda: requests_of(pair.b).wanted, "for the request")
    reset(caller)
    await until(lambda: requests_of(pair.b).cancelled == [1], "for the cancellation")
    assert not pair.a.streams.pumps


# A clean close is no reset.


async def left_cleanly(pair: Pair) -> Ends:
    """A client that sent much and closed, so that writes to it fail. With unix sockets the daemon has all its
    data then; TCP itself aborts a close with data in flight when other data arrives."""
    ends = await stream(pair, "caller", unix=True)
    await ends.fill()
    ends.doomed.close()
    ends.survivor.send(b"are you there?")
    await until(lambda: pair.a.streams.pumps[1].broken, "for the write to fail")
    return ends


async def test_data_before_a_clean_close_is_delivered_first(pair: Pair) -> None:
    ends = await left_cleanly(pair)
    await receive(ends.survivor, ends.sent)
    assert await ending(ends.survivor) in {"close", "reset"}
    await until(lambda: ends.streams == 0)


async def test_survivor_that_reads_nothing_after_a_clean_close_is_reset_in_the_end(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNHEARD", 0.05)
    ends = await left_cleanly(pair)
    await until(lambda: failed(ends.survivor), "for the survivor to detect it")
    assert last(pair.a)[1].endswith("Broken pipe")
    assert await ending(ends.survivor) == "reset"


async def test_active_stream_is_not_reset_after_a_clean_close(pair: Pair) -> None:
    ends = await left_cleanly(pair)
    streams, pump, error = pair.a.streams, pair.a.streams.pumps[1], OSError("Broken pipe")
    streams._cut_off(pump, error, 3600, streams._moved(pump) - 1)
    assert ends.streams == 2
    streams._cut_off(pump, error, 3600, streams._moved(pump))
    await until(lambda: ends.streams == 0, "for both ends")


async def test_a_socket_that_fails_after_both_ends_ends_its_stream_and_no_other(pair: Pair) -> None:
    """The kernel still had data for the client, which left; the peer's end was in flight."""
    ends = await stream(pair, "caller")
    pump, lane = pair.a.streams.pumps[1], pipes(pair.b)[1]
    for _ in range(8):
        ends.sent += ends.survivor.send(bytes(64 * KIB))
        await until(lambda: pump.bytes_written == ends.sent, "for all to be written")
    ends.survivor.shutdown(socket.SHUT_WR)
    await until(lambda: pump.write_ended, "for the end")
    flush, lane.flush = lane.flush, lambda: None  # type: ignore[method-assign]
    ends.doomed.shutdown(socket.SHUT_WR)
    await until(lambda: pump.read_ended, "for the other end")
    ends.doomed.close()
    await until(lambda: pump.broken, "for the reset")
    lane.flush = flush  # type: ignore[method-assign]
    lane.flush()
    await until(lambda: ends.streams == 0, "for both ends")
    assert await ending(ends.survivor) == "close"
    assert pair.a.session
    assert pair.b.session


# Streams whose hypervisor has closed, while the target does nothing.


@pytest.mark.parametrize("unix", [False, True])
async def test_stream_of_a_closed_hypervisor_ends_without_a_tick(
    pair: Pair, unix: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEFT", 0.05)
    ends = await stream(pair, "caller", unix=unix)
    ends.doomed.send(b"last")
    ends.doomed.close()
    await until(lambda: ends.streams == 0, "for both ends")
    assert await receive(ends.survivor, 4) == b"last"
    assert await ending(ends.survivor) == "close"
    assert not pair.a.incidents
    assert not pair.b.incidents


@pytest.mark.parametrize("unix", [False, True])
async def test_slot_is_free_soon_after_the_client_closed(pair: Pair, unix: bool) -> None:
    ends = await stream(pair, "caller", unix=unix)
    ends.doomed.send(b"last")
    ends.doomed.close()
    await until(lambda: not pair.a.session or not pair.a.session.unconfirmed(1), "for the confirmation")
    await until(lambda: pair.a.streams.pumps[1].read_ended, "for the end")
    for now in (0.0, stream_timeouts.LEFT - 0.1):
        pair.a.streams.reap_silent(now)
    assert ends.streams == 2
    pair.a.streams.reap_silent(stream_timeouts.LEFT)
    await until(lambda: ends.streams == 0, "for both ends")
    assert await receive(ends.survivor, 4) == b"last", "delivered bytes stay readable"
    assert await ending(ends.survivor) == "close"


async def test_half_closed_client_keeps_its_slot(pair: Pair) -> None:
    ends = await stream(pair, "caller")
    ends.doomed.shutdown(socket.SHUT_WR)
    await until(lambda: pair.a.streams.pumps[1].read_ended, "for the end")
    for now in (0.0, stream_timeouts.LEFT, stream_timeouts.LEFT_UNDELIVERED):
        pair.a.streams.reap_silent(now)
    ends.survivor.send(b"answer")
    assert await receive(ends.doomed, 6) == b"answer"


async def test_closed_client_with_undelivered_bytes_loses_its_slot_in_the_end(pair: Pair) -> None:
    ends = await stream(pair, "caller")
    await ends.fill()
    ends.doomed.close()
    assert not pair.a.streams.pumps[1].hung_up, "the end comes after bytes that its kernel cannot send"
    for now in (0.0, stream_timeouts.LEFT_UNDELIVERED - 0.1):
        pair.a.streams.reap_silent(now)
    assert ends.streams == 2
    pair.a.streams.reap_silent(stream_timeouts.LEFT_UNDELIVERED)
    await until(lambda: ends.streams == 0, "for both ends")
    assert await ending(ends.survivor) == "reset", "not all of it was delivered"


async def test_slot_is_freed_sooner_if_another_stream_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LEFT_IN_THE_WAY", 0.05)
    monkeypatch.setattr(module, "RECLAIM_EVERY", 0.01)
    pair = await Pair(settings=Settings(window=64 * KIB, limits=Limits(2, 1024))).up()
    busy = await stream(pair, "caller")
    left = await stream(pair, "caller")
    await left.fill()
    await busy.fill()
    left.doomed.close()
    pair.a.streams.reap_silent(time.monotonic())  # the lane's tick
    late_caller, late_called = await asyncio.wait_for(pair.stream(), 60)
    await exchange(late_caller, late_called)
    assert await ending(left.survivor) == "reset"
    assert sorted(pair.a.streams.pumps) == [1, 5], "connected clients keep their slots"
    pair.close()


async def test_target_that_has_not_accepted_yet_has_not_closed(pair: Pair) -> None:
    """For the kernel, no process has its end yet, as after a close."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        caller = await pair.request(pair.a)
        await until(lambda: requests_of(pair.b).wanted, "for the request")
        pair.b.streams.on_dialled(1, socket.create_connection(server.getsockname()))
        caller.send(b"hello")
        caller.shutdown(socket.SHUT_WR)
        await until(lambda: pair.b.streams.pumps[1].write_ended, "for the end")
        for now in (0.0, stream_timeouts.LEFT, stream_timeouts.LEFT_UNDELIVERED):
            pair.b.streams.reap_silent(now)
        called, _ = server.accept()
        with called:
            called.setblocking(False)
            assert await receive(called, 5) == b"hello"
