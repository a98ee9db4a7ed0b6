"""The local socket of a stream: reading, writing, back-pressure, and what the hypervisor sees."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tests.support.network import tcp_pair
from tests.support.pumps import NOISE, Local, Owner, deliver_until_told
from tests.support.waiting import turns, unexpected, until
from tunnel.net.sockets import reset
from tunnel.records import slabs
from tunnel.relay import pump
from tunnel.relay.pump import Pump
from tunnel.relay.spliced_pump import SplicedPump
from tunnel.units import MIB
from tunnel.wire.payload import copied

# Reading.


async def test_nothing_is_read_before_it_is_requested(local: Local) -> None:
    local.hypervisor.send(b"QEVM")
    local.pump.start_reading()
    await until(lambda: local.owner.readable)
    await turns()
    assert local.owner.readable == 1, "reported once, not in every loop iteration"
    assert local.pump.bytes_read == 0
    assert local.read(100) == b"QEVM"
    assert local.pump.bytes_read == 4


async def test_no_more_is_read_than_the_window_allows(local: Local) -> None:
    local.hypervisor.send(b"0123456789")
    assert [local.read(4), local.read(4), local.read(4)] == [b"0123", b"4567", b"89"]


async def test_empty_read_watches_again(local: Local) -> None:
    assert local.read(100) is None
    await turns()
    assert local.owner.readable == 0
    local.hypervisor.send(b"x")
    await until(lambda: local.owner.readable == 1)
    assert local.read(100) == b"x"


async def test_the_end_is_read_once(local: Local) -> None:
    local.hypervisor.send(b"last")
    local.hypervisor.shutdown(socket.SHUT_WR)
    local.pump.start_reading()
    await until(lambda: local.owner.readable)
    reads = [(local.read(100), local.pump.read_ended) for _ in range(2)]
    assert reads == [(b"last", False), (b"", True)]
    assert local.pump.half_closed
    await turns()
    assert local.owner.readable == 1


async def test_a_reset_is_raised_by_reading() -> None:
    with unexpected() as surprises:
        local = Local("tcp")
        local.pump.start_reading()
        reset(local.hypervisor)
        await until(lambda: local.owner.readable)
        with pytest.raises(ConnectionResetError):
            local.read(100)
        local.pump.reset()
        await turns()
    assert not surprises


# Bulk reads: large pieces, into reused memory.


@pytest.fixture
def spare(monkeypatch: pytest.MonkeyPatch) -> list[bytearray]:
    """The pool of free slabs, empty at first."""
    own: list[bytearray] = []
    monkeypatch.setattr(slabs, "_spare", own)
    return own


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_delivered_payload_frees_its_slab(kind: str, spare: list[bytearray]) -> None:
    local = Local(kind)
    got, kept = b"", 0
    for start in range(0, len(NOISE), 1 << 17):
        await asyncio.get_running_loop().sock_sendall(local.hypervisor, NOISE[start : start + (1 << 17)])
        while len(got) < start + (1 << 17):
            local.pump._gathers = False
            if (data := local.pump.read(1 << 20)) is None:
                await turns()
                continue
            kept += isinstance(data, memoryview)
            got += copied(data)
            del data
            local.pump.release(len(got))
    assert got == NOISE
    assert kept, "some of it was bulk"
    assert len(spare) == 1, "one slab was enough for all"
    local.pump.close()
    local.hypervisor.close()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_an_idle_pump_holds_no_slab(kind: str, spare: list[bytearray]) -> None:
    local = Local(kind)
    assert local.read(1 << 20) is None
    assert len(spare) == 1
    local.hypervisor.send(b"a question")
    await until(lambda: local.owner.readable)
    assert local.read(1 << 20) == b"a question"
    assert len(spare) == 1
    local.pump.close()
    local.hypervisor.close()


@pytest.fixture(params=[Pump, SplicedPump])
async def bulk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Local]:
    """A pump whose last read was short, on a clock that makes any data look fast."""
    monkeypatch.setattr(pump, "MOMENT", 3600.0)
    made = Local("tcp", request.param)
    for _ in range(2):
        made.hypervisor.send(NOISE[:10_000])
        assert made.read(MIB) == NOISE[:10_000]
    yield made
    made.pump.close()
    made.hypervisor.close()


async def test_bulk_is_not_read_until_a_large_piece_is_available(bulk: Local) -> None:
    bulk.hypervisor.send(NOISE[:10_000])
    assert bulk.read(MIB) is None
    await turns()
    assert bulk.owner.readable == 0
    sent = 10_000
    while sent < pump.ENOUGH:
        with suppress(BlockingIOError):
            sent += bulk.hypervisor.send(NOISE[sent : pump.ENOUGH])
        await turns()
    await until(lambda: bulk.owner.readable == 1)
    assert bulk.read(MIB) == NOISE[: pump.ENOUGH]


async def test_bulk_that_stops_is_read_after_a_moment(bulk: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    bulk.hypervisor.send(b"the rest")
    monkeypatch.setattr(pump, "MOMENT", 0.01)
    assert bulk.read(MIB) is None
    await until(lambda: bulk.owner.readable == 1)
    assert bulk.read(MIB) == b"the rest"
    assert bulk.read(MIB) is None
    bulk.hypervisor.send(b"x")
    await until(lambda: bulk.owner.readable == 2, "for the byte, without waiting for more")


async def test_end_of_bulk_is_reported_immediately(bulk: Local) -> None:
    bulk.hypervisor.send(b"the rest")
    assert bulk.read(MIB) is None
    bulk.hypervisor.shutdown(socket.SHUT_WR)
    await until(lambda: bulk.owner.readable == 1)
    assert bulk.read(MIB) == b"the rest"


async def test_pump_that_is_closed_while_waiting_reports_nothing(
    bulk: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "MOMENT", 0.001)
    assert bulk.read(MIB) is None
    bulk.pump.reset()
    later = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.01, later.set_result, None)
    await later
    assert bulk.owner.readable == 0


async def test_small_messages_are_read_as_they_come(local: Local) -> None:
    for number in range(20):
        local.hypervisor.send(b"%d" % number)
        assert local.read(MIB) == b"%d" % number


# Writing.


async def test_payload_that_fits_is_written_immediately(local: Local) -> None:
    local.deliver(b"one", b"two", b"three")
    assert local.take() == b"onetwothree"
    assert local.owner.delivered == [11]
    assert local.pump.bytes_written == 11
    assert local.pump.backlog == 0


async def test_only_written_bytes_count_as_delivered(local: Local) -> None:
    sent = local.stuff()
    assert sum(local.owner.delivered) + local.pump.backlog == len(sent)
    assert local.pump.backlog > 0
    before = sum(local.owner.delivered)
    await turns()
    assert sum(local.owner.delivered) == before, "nobody reads"


async def test_a_slow_reader_gets_everything_in_order(local: Local) -> None:
    sent = local.stuff()
    for start in range(5 * MIB, 7 * MIB, 77_777):  # after what is buffered, never before it
        local.deliver(NOISE[start : start + 77_777])
        sent += NOISE[start : start + 77_777]
    assert await local.take_all(len(sent)) == sent
    await until(lambda: local.pump.backlog == 0)
    assert sum(local.owner.delivered) == local.pump.bytes_written == len(sent)


async def test_writable_socket_is_no_longer_watched(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    writable = local.pump._writable

    def counted() -> None:
        calls.append(1)
        writable()

    monkeypatch.setattr(local.pump, "_writable", counted)
    sent = local.stuff()
    await local.take_all(len(sent))
    await until(lambda: local.pump.backlog == 0)
    before = len(calls)
    await turns()
    assert len(calls) == before > 0


async def test_nothing_overtakes_buffered_payload(local: Local) -> None:
    sent = local.stuff()
    taken = local.take()  # so the socket is writable again, not yet reported
    local.deliver(NOISE[:1000])
    sent += NOISE[:1000]
    assert taken + await local.take_all(len(sent) - len(taken)) == sent


async def test_a_batch_of_many_small_pieces_arrives_whole(local: Local) -> None:
    """More pieces than one system call accepts (IOV_MAX)."""
    size = 7 * 1500
    local.deliver(*(NOISE[start : start + 7] for start in range(0, size, 7)))
    assert await local.take_all(size) == NOISE[:size]
    await until(lambda: sum(local.owner.delivered) == size)


async def test_a_backlog_of_many_small_pieces_arrives_whole(local: Local) -> None:
    sent = local.stuff()
    for start in range(0, 3000, 10):
        local.deliver(NOISE[start : start + 10])
    sent += NOISE[:3000]
    assert await local.take_all(len(sent)) == sent
    await until(lambda: local.pump.backlog == 0)


async def test_a_backlog_of_tiny_pieces_is_joined() -> None:
    """A peer chooses the size of its frames: an object for each would cost a hundred times their bytes."""
    local = Local("unix")
    sent = local.stuff()
    for _ in range(3):
        for start in range(0, 100_000, 10):
            local.deliver(NOISE[start : start + 10])
        sent += NOISE[:100_000]
        part = await local.take_all(1)  # the first buffered piece is written in part
        sent = sent[len(part) :]
        assert len(local.pump._waiting) < 10
    assert await local.take_all(len(sent)) == sent
    local.pump.close()
    local.hypervisor.close()


@pytest.mark.parametrize("make", [Pump, SplicedPump])
async def test_buffered_single_bytes_use_little_more_memory_than_their_size(make: type[Pump]) -> None:
    local = Local("unix", make)
    local.stuff()
    count = 50_000
    tracemalloc.start()
    for start in range(0, count, 1000):
        local._lend_memory([NOISE[at : at + 1] for at in range(start, start + 1000)])
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count <= grown < 4 * count
    local.pump.close()
    local.hypervisor.close()


async def test_buffered_payload_is_freed_as_it_is_written() -> None:
    """A large piece would stay in memory as a whole until its last byte is written."""
    local = Local("unix")
    sent = local.stuff()
    tracemalloc.start()
    for _ in range(20):
        local.deliver(NOISE[: 500 * 1024])
        sent += NOISE[: 500 * 1024]
        sent = sent[len(await local.take_all(480 * 1024)) :]
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < local.pump.backlog + len(sent) + 500 * 1024
    assert await local.take_all(len(sent)) == sent
    local.pump.close()
    local.hypervisor.close()


async def test_flushing_nothing_does_nothing(local: Local) -> None:
    local.pump.flush()
    assert local.owner.delivered == []


async def test_end_comes_after_the_bytes_and_the_other_direction_continues(local: Local) -> None:
    local.deliver(b"last")
    local.pump.shutdown_write()
    assert local.pump.half_closed
    assert local.take() == b"last"
    assert local.hypervisor.recv(1) == b""
    local.hypervisor.send(b"still here")
    assert local.read(100) == b"still here"


# A hypervisor that is gone.


async def test_broken_pipe_is_reported_once_and_nothing_more_counts(local: Local) -> None:
    local.hypervisor.close()
    await deliver_until_told(local)
    before = sum(local.owner.delivered)
    for _ in range(10):
        local.deliver(b"x" * 1000)
        await turns()
    assert len(local.owner.errors) == 1
    assert isinstance(local.owner.errors[0], ConnectionError)
    assert local.pump.broken
    assert local.pump.backlog == 0
    assert sum(local.owner.delivered) == before
    local.pump.shutdown_write()


async def test_error_drops_buffered_bytes(local: Local) -> None:
    sent = local.stuff()
    local.hypervisor.close()
    await until(lambda: local.owner.errors)
    await turns()
    assert len(local.owner.errors) == 1
    assert local.pump.backlog == 0
    assert sum(local.owner.delivered) < len(sent)


@pytest.mark.parametrize("when", ["flush", "later"])
async def test_handler_may_reset_the_pump_on_an_error(local: Local, when: str) -> None:
    local.owner.on_error = lambda pump: pump.reset()
    if when == "later":
        local.stuff()
    local.hypervisor.close()
    if when == "flush":
        await deliver_until_told(local)
    await until(lambda: local.owner.errors)
    await turns()
    assert len(local.owner.errors) == 1


# The end.


async def test_reset_looks_like_a_failure_over_tcp() -> None:
    local = Local("tcp")
    local.deliver(b"some")
    local.pump.reset()
    with pytest.raises(ConnectionResetError):
        local.take()
    local.hypervisor.close()


async def test_close_is_a_clean_end(local: Local) -> None:
    local.deliver(b"all")
    local.pump.close()
    assert local.hypervisor.recv(100) == b"all"
    assert local.hypervisor.recv(100) == b""


@pytest.mark.parametrize("way", ["close", "reset"])
async def test_nothing_is_called_after_the_end(local: Local, way: str) -> None:
    local.pump.start_reading()
    local.stuff()
    told = list(local.owner.delivered)
    local.hypervisor.send(b"late")
    getattr(local.pump, way)()
    with suppress(ConnectionResetError):
        local.take()
    await turns()
    local.deliver(b"late too")
    getattr(local.pump, way)()
    assert (local.owner.readable, local.owner.delivered, local.owner.errors) == (0, told, [])
    assert local.pump.backlog == 0


async def test_pump_has_the_address_of_its_client(local: Local) -> None:
    host = local.hypervisor.getsockname()
    assert local.pump.caller == (f"{host[0]}:{host[1]}" if host else "unnamed socket")


async def test_disconnected_client_has_a_pump_too() -> None:
    ours, theirs = tcp_pair()
    reset(theirs)
    pump = Pump(ours, 1, "tcp:127.0.0.1:49152", Owner())
    assert pump.caller == "gone"
    pump.reset()
