"""Pipes that move bytes without copying, and their capacity."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from tunnel.lanes import kernel_payload
from tunnel.lanes.kernel_payload import MOST_SPARE, PIPE_SIZE, Pipe

NOISE = os.urandom(100_000)


def filled(content: bytes) -> Pipe:
    pipe = Pipe()
    assert os.write(pipe.sink, content) == len(content)
    return pipe


def test_bytes_are_moved_from_socket_to_socket() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.send(NOISE[:5000])
        pipe = Pipe()
        assert pipe.fill(other.fileno(), 3000) == 3000
        assert pipe.empty(other.fileno(), 3000) == 3000
        assert one.recv(9999) == NOISE[:3000]
        assert other.recv(9999) == NOISE[3000:5000]


def test_nothing_blocks() -> None:
    one, other = socket.socketpair()
    pipe = Pipe()
    with one, other:
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            pipe.fill(other.fileno(), 1)
        with pytest.raises(BlockingIOError):
            pipe.empty(other.fileno(), 1)
        one.close()
        assert pipe.fill(other.fileno(), 1) == 0, "the end"


def test_a_copy_leaves_the_original() -> None:
    pipe, copy = filled(NOISE), Pipe()
    assert pipe.duplicate(copy, 60_000) == 60_000
    assert copy.read(60_000) == NOISE[:60_000]
    assert pipe.read(100_000) == NOISE


def test_copying_and_moving_stop_when_the_pipe_is_full() -> None:
    pipe, small = filled(NOISE), Pipe(4096)
    room = small.size
    assert room < 100_000
    assert pipe.duplicate(small, 100_000) == room
    assert pipe.duplicate(small, 100_000) == 0
    assert pipe.move(small, 100_000) == 0
    small.discard(room)
    assert pipe.move(small, 100_000) == room
    assert small.read(room) + pipe.read(100_000 - room) == NOISE


def test_a_part_is_cut_into_a_new_pipe() -> None:
    pipe = filled(NOISE)
    part = kernel_payload.cut_pipe(pipe, 60_000)
    assert isinstance(part, Pipe)
    assert part.read(60_000) + pipe.read(40_000) == NOISE


def test_a_part_is_cut_into_memory_without_a_suitable_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Pipe:
        raise OSError(errno.EMFILE, "none left")

    pipe = filled(NOISE)
    with monkeypatch.context() as scarce:
        scarce.setattr(kernel_payload, "take_pipe", lambda: Pipe(4096))
        assert kernel_payload.cut_pipe(pipe, 70_000) == NOISE[:70_000]
        scarce.setattr(kernel_payload, "take_pipe", none)
        assert kernel_payload.cut_pipe(pipe, 20_000) == NOISE[70_000:90_000]
    assert pipe.read(10_000) == NOISE[90_000:]


def test_capacity_is_in_slots_not_bytes() -> None:
    """A slot holds one segment, however small that is."""
    one, other = socket.socketpair()
    pipe = Pipe(1)
    slots = pipe.size // 4096
    with one, other:
        other.setblocking(False)
        for _ in range(slots + 1):
            one.send(b"x")
        assert sum(pipe.fill(other.fileno(), 1) for _ in range(slots)) == slots
        with pytest.raises(BlockingIOError):
            pipe.fill(other.fileno(), 1)


def test_a_pipe_with_data_in_it_grows() -> None:
    pipe = Pipe(65536)
    os.write(pipe.sink, NOISE[:65536])
    assert pipe.grow(131072)
    assert pipe.size == 131072
    assert not pipe.grow(65536), "it is larger than that"
    os.write(pipe.sink, NOISE[65536:])
    assert pipe.read(100_000) == NOISE


def test_the_kernel_may_refuse_to_enlarge_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root is never refused, so the refusal is simulated."""

    def refuse(descriptor: int, command: int, size: int) -> int:
        raise PermissionError

    pipe = Pipe()
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert not pipe.grow(2 * PIPE_SIZE)
    assert pipe.size == PIPE_SIZE


def test_discarded_bytes_are_removed() -> None:
    pipe = filled(NOISE)
    pipe.discard(99_990)
    assert pipe.read(10) == NOISE[99_990:]


def test_copying_to_a_closed_pipe_is_an_error() -> None:
    pipe, closed = filled(b"x"), Pipe()
    closed.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        pipe.duplicate(closed, 1)


def test_a_pipe_is_closed_with_its_last_reference() -> None:
    pipe = Pipe()
    descriptors = pipe.source, pipe.sink
    del pipe
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_an_empty_pipe_is_reused_and_spares_are_bounded() -> None:
    pipe = kernel_payload.take_pipe()
    kernel_payload.give_back_pipe(pipe)
    assert kernel_payload.take_pipe() is pipe
    for _ in range(MOST_SPARE + 5):
        kernel_payload.give_back_pipe(Pipe(4096))
    assert len(kernel_payload._spare) == MOST_SPARE
    kernel_payload._spare.clear()


@pytest.fixture
def no_descriptors() -> Iterator[None]:
    kernel_payload._spare.clear()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_discarding_works_without_free_descriptors(request: pytest.FixtureRequest) -> None:
    """Bytes that the peer has acknowledged must be discarded, for all streams of the link."""
    kernel_payload._nowhere.cache_clear()
    pipe = filled(NOISE[:5000])
    request.getfixturevalue("no_descriptors")
    pipe.discard(4000)
    assert pipe.read(1000) == NOISE[4000:5000]


@pytest.mark.usefixtures("no_descriptors")
def test_without_descriptors_no_pipe_is_created() -> None:
    with pytest.raises(OSError, match="Too many open files"):
        kernel_payload.take_pipe()
