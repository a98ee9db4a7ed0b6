"""One call between a socket and memory: all data that fits, in order, and no byte twice."""

from __future__ import annotations

import errno
import gc
import os
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace

import pytest

from tests.support.keyed_end import SECRET, KeyedEnd
from tests.support.reference_records import ReferenceRecords, Secret
from tunnel.engine.binding import SUITES, Provider, ffi
from tunnel.engine.compiled import (
    ALERT,
    BAD_RECORD_MAC,
    HANDSHAKE,
    MOST_BYTES,
    RECORD,
    CompiledOpener,
    CompiledSealer,
    Control,
    EngineError,
    Fault,
    sealed_size,
)
from tunnel.engine.transfer import RecordSocket, Stop


def test_sent_data_is_received(provider: Provider, pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = (KeyedEnd(provider, sock) for sock in pair)
    done = here.records.seal_send(here.sealer, [b"some", b"", b"thing"])
    assert (done.taken, done.unsent, done.stop) == (9, 0, Stop.DONE)
    assert done.sent == sealed_size(9)
    received = there.records.recv_open(there.opener, there.plain)
    assert (received.filled, received.records, received.received) == (9, 1, sealed_size(9))
    assert (received.event, received.stop, received.error) == (None, Stop.EMPTY, 0)
    assert there.plain[:9] == b"something"
    assert there.receive() == (b"", None, Stop.EMPTY)


def test_the_rest_is_sent_when_a_full_socket_is_writable(
    provider: Provider, pair: tuple[socket.socket, socket.socket]
) -> None:
    here, there = (KeyedEnd(provider, sock) for sock in pair)
    content = random.Random(1).randbytes(3_000_000)
    taken, arrived, full = 0, bytearray(), 0
    while len(arrived) < len(content):
        left = memoryview(content)[taken:]
        done = here.records.seal_send(here.sealer, [left[:100], left[100:]])
        assert done.unsent == here.records.unsent
        assert done.unsent == 0 or done.stop is Stop.FULL
        taken += done.taken
        full += done.stop is Stop.FULL
        data, event, stop = there.receive()
        assert (event, stop) == (None, Stop.EMPTY)
        arrived += data
    assert arrived == content
    assert full > 10
    assert here.sealer.number == there.opener.number


def test_a_call_is_bounded(libcrypto: Provider) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = socket.create_connection(server.getsockname())
        there, _ = server.accept()
    with here, there:
        there.setblocking(False)
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
        sender, receiver = KeyedEnd(libcrypto, here), KeyedEnd(libcrypto, there)
        content, taken, total, stops = bytes(5 * MOST_BYTES), 0, 0, set[Stop]()
        while total < len(content):
            done = sender.records.seal_send(sender.sealer, [memoryview(content)[taken:]])
            assert done.taken <= MOST_BYTES
            taken += done.taken
            stops.add(done.stop)
            received = receiver.records.recv_open(receiver.opener, receiver.plain)
            assert received.filled <= MOST_BYTES
            assert received.received < MOST_BYTES + (1 << 18) + (1 << 15)
            total += received.filled
        assert total == len(content)


def test_reading_is_bounded_with_many_tiny_records(
    libcrypto: Provider, pair: tuple[socket.socket, socket.socket]
) -> None:
    reference = ReferenceRecords(SECRET)
    pair[0].sendall(b"".join(reference.seal(b"x") for _ in range(300)))
    there = KeyedEnd(libcrypto, pair[1])
    assert there.receive() == (b"x" * 256, None, Stop.BUDGET)
    assert there.records.unopened == 44 * sealed_size(1)
    assert there.receive() == (b"x" * 44, None, Stop.EMPTY)


def test_a_record_that_does_not_fit_stays_buffered(
    libcrypto: Provider, pair: tuple[socket.socket, socket.socket]
) -> None:
    reference = ReferenceRecords(SECRET)
    pair[0].sendall(reference.seal(bytes(RECORD)) + reference.seal(b"second"))
    there = KeyedEnd(libcrypto, pair[1])
    there.plain = bytearray(RECORD + 2)
    assert there.receive() == (bytes(RECORD), None, Stop.FILLED)
    assert there.receive() == (b"second", None, Stop.EMPTY)
    pair[0].sendall(reference.seal(bytes(RECORD)))
    there.plain = bytearray(RECORD)
    with pytest.raises(ValueError, match="output buffer is too small"):
        there.receive()


def test_records_of_other_types_stop_it_and_keys_may_change_after_one(
    provider: Provider, pair: tuple[socket.socket, socket.socket]
) -> None:
    here, there = (KeyedEnd(provider, sock) for sock in pair)
    here.records.seal_send(here.sealer, [b"old key"])
    here.records.seal_send(here.sealer, [b"KeyUpdate"], HANDSHAKE)
    new = Secret(SUITES[2], bytes(32), bytes(12))
    here.sealer = CompiledSealer(provider, *new)
    here.records.seal_send(here.sealer, [b"new key"])
    assert there.receive() == (b"old key", Control(HANDSHAKE, b"KeyUpdate"), Stop.EVENT)
    assert there.records.unopened == sealed_size(7)
    there.opener = CompiledOpener(provider, *new)
    assert there.receive() == (b"new key", None, Stop.EMPTY)


def test_buffered_records_keep_their_key(
    provider: Provider, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Records that the socket did not accept are sealed already."""
    here, there = (KeyedEnd(provider, sock) for sock in pair)
    content = bytes(1 << 18)
    assert here.records.seal_send(here.sealer, [content]).stop is Stop.FULL
    new = Secret(SUITES[1], bytes(16), bytes(12))
    behind, arrived = CompiledSealer(provider, *new), 0
    while arrived < len(content):
        here.records.seal_send(behind, [])
        arrived += len(there.receive()[0])
    assert (behind.number, here.records.unsent) == (0, 0)
    here.records.seal_send(behind, [b"new"])
    there.opener = CompiledOpener(provider, *new)
    assert there.receive()[0] == b"new"


def test_a_fault_follows_valid_data(provider: Provider, pair: tuple[socket.socket, socket.socket]) -> None:
    good = ReferenceRecords(SECRET).seal(b"good")
    pair[0].sendall(good + good)  # the second has the number of the first
    there = KeyedEnd(provider, pair[1])
    data, event, stop = there.receive()
    assert (data, stop) == (b"good", Stop.EVENT)
    assert isinstance(event, Fault)
    assert event.alert == BAD_RECORD_MAC
    assert there.receive() == (b"", event, Stop.EVENT)


def test_the_peer_closes_its_direction(
    libcrypto: Provider, pair: tuple[socket.socket, socket.socket]
) -> None:
    reference = ReferenceRecords(SECRET)
    pair[0].sendall(reference.seal(b"last") + reference.seal(b"cut")[:-1])
    pair[0].shutdown(socket.SHUT_WR)
    there = KeyedEnd(libcrypto, pair[1])
    assert there.receive() == (b"last", None, Stop.ENDED)
    assert there.records.unopened == sealed_size(3) - 1


def test_a_socket_that_failed(libcrypto: Provider) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = socket.create_connection(server.getsockname())
        there, _ = server.accept()
    with here:
        end = KeyedEnd(libcrypto, here)
        there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        there.close()  # a reset
        received = end.records.recv_open(end.opener, end.plain)
        assert (received.stop, received.error) == (Stop.FAILED, errno.ECONNRESET)
        with pytest.raises(BrokenPipeError):
            end.records.seal_send(end.sealer, [b"x"])
    with pytest.raises(OSError, match="Bad file descriptor"):
        end.records.seal_send(end.sealer, [])
    assert end.records.recv_open(end.opener, end.plain).error == errno.EBADF


def test_the_descriptor_of_a_closed_socket_may_be_anothers(
    libcrypto: Provider, pair: tuple[socket.socket, socket.socket]
) -> None:
    closed = socket.socket()
    end, number = KeyedEnd(libcrypto, closed), closed.fileno()
    closed.close()
    os.dup2(pair[0].fileno(), number)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            end.records.seal_send(end.sealer, [b"not for this one"])
        pair[1].send(b"x")
        assert end.records.recv_open(end.opener, end.plain).error == errno.EBADF
        assert pair[0].recv(10) == b"x"
    finally:
        os.close(number)
    with pytest.raises(BlockingIOError):
        pair[1].recv(1)


def test_a_queued_record_is_sent_after_buffered_ones(
    provider: Provider, pair: tuple[socket.socket, socket.socket]
) -> None:
    here, there = (KeyedEnd(provider, sock) for sock in pair)
    content = bytes(1 << 18)
    done = here.records.seal_send(here.sealer, [content])
    assert (done.taken, done.gone, done.stop) == (len(content), 0, Stop.FULL)
    last = bytearray(sealed_size(2))
    here.sealer.seal([b"\1\0"], last, ALERT)
    here.records.put(bytes(last))
    with pytest.raises(ValueError, match="no room for 128 bytes in the send buffer"):
        here.records.put(bytes(128))
    arrived, gone, event = 0, 0, None
    while event is None:
        gone += here.records.seal_send(here.sealer, []).gone
        data, event, _ = there.receive()
        arrived += len(data)
    assert (arrived, gone, event) == (len(content), len(content), Control(ALERT, b"\1\0"))


def test_misuse_and_key_limits(libcrypto: Provider, pair: tuple[socket.socket, socket.socket]) -> None:
    here = KeyedEnd(libcrypto, pair[0])
    with pytest.raises(ValueError, match="invalid arguments"):
        here.records.seal_send(here.sealer, [b"x"], 0)
    with pytest.raises(ValueError, match="invalid arguments"):
        here.records.seal_send(here.sealer, [b""], ALERT)
    with pytest.raises(ValueError, match="invalid arguments"):
        here.records.seal_send(here.opener, [b"x"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="invalid arguments"):
        here.records.recv_open(here.sealer, here.plain)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="key limit reached"):
        here.records.seal_send(CompiledSealer(libcrypto, *SECRET, 0), [b"x"])
    with pytest.raises(BlockingIOError):
        pair[1].recv(1)


def test_without_memory(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(EngineError, match="out of memory"):
        RecordSocket(SimpleNamespace(mt_buffer_new=lambda: ffi.NULL), pair[0])


def test_an_exception_keeps_no_view_of_the_memory(
    libcrypto: Provider, pair: tuple[socket.socket, socket.socket]
) -> None:
    """CPython crashes when its garbage collector finds a memoryview with a view of it."""
    end, views = KeyedEnd(libcrypto, pair[0]), [memoryview(bytearray(100)) for _ in range(5)]
    spent = CompiledSealer(libcrypto, *SECRET, 0)
    calls: list[Callable[[], object]] = [
        lambda: end.records.seal_send(spent, [views[0]]),
        lambda: end.sealer.seal([views[1]], views[2]),
        lambda: end.records.recv_open(end.opener, views[3]),
        lambda: end.opener.open(b"", 1, views[4]),
    ]
    pair[1].send(bytes([23, 3, 3, 0, 0]))
    for call in calls[:2] + calls[3:]:
        with pytest.raises((EngineError, ValueError)) as caught:
            call()
        assert caught.value.__traceback__ is not None
    calls[2]()
    for view in views:
        view.release()  # a BufferError if there is a view of it


def test_a_failed_send_leaves_no_cycle(
    libcrypto: Provider, pair: tuple[socket.socket, socket.socket]
) -> None:
    end = KeyedEnd(libcrypto, pair[0])
    pair[1].close()
    gc.collect()
    for _ in range(3):
        with suppress(OSError):
            end.records.seal_send(end.sealer, [memoryview(bytearray(100))])
    assert gc.collect() == 0
