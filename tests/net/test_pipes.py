"""Pipes that bytes pass through without being copied, and what the kernel makes of their size."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from tunnel.net import pipes
from tunnel.net.pipes import MOST_SPARE, SIZE, Pipe

NOISE = os.urandom(100_000)


def filled(content: bytes) -> Pipe:
    pipe = Pipe()
    assert os.write(pipe.sink, content) == len(content)
    return pipe


def test_bytes_go_from_socket_to_socket() -> None:
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


def test_as_much_is_copied_and_moved_as_fits() -> None:
    pipe, small = filled(NOISE), Pipe(4096)
    room = small.size
    assert room < 100_000
    assert pipe.duplicate(small, 100_000) == room
    assert pipe.duplicate(small, 100_000) == 0
    assert pipe.move(small, 100_000) == 0
    small.discard(room)
    assert pipe.move(small, 100_000) == room
    assert small.read(room) + pipe.read(100_000 - room) == NOISE


def test_a_part_is_cut_off_into_a_pipe_of_its_own() -> None:
    pipe = filled(NOISE)
    part = pipes.cut(pipe, 60_000)
    assert isinstance(part, Pipe)
    assert part.read(60_000) + pipe.read(40_000) == NOISE


def test_a_part_for_which_no_pipe_will_do_is_cut_off_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Pipe:
        raise OSError(errno.EMFILE, "none left")

    pipe = filled(NOISE)
    with monkeypatch.context() as scarce:
        scarce.setattr(pipes, "take", lambda: Pipe(4096))
        assert pipes.cut(pipe, 70_000) == NOISE[:70_000]
        scarce.setattr(pipes, "take", none)
        assert pipes.cut(pipe, 20_000) == NOISE[70_000:90_000]
    assert pipe.read(10_000) == NOISE[90_000:]


def test_slots_are_what_counts_not_bytes() -> None:
    """A slot holds what came at once, however little that was."""
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


def test_a_pipe_grows_with_what_is_in_it() -> None:
    pipe = Pipe(65536)
    os.write(pipe.sink, NOISE[:65536])
    assert pipe.grow(131072)
    assert pipe.size == 131072
    assert not pipe.grow(65536), "it is larger than that"
    os.write(pipe.sink, NOISE[65536:])
    assert pipe.read(100_000) == NOISE


def test_the_kernel_may_refuse_to_let_it_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root is let: so it is told here what others are."""

    def refuse(descriptor: int, command: int, size: int) -> int:
        raise PermissionError

    pipe = Pipe()
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert not pipe.grow(2 * SIZE)
    assert pipe.size == SIZE


def test_what_is_discarded_is_gone() -> None:
    pipe = filled(NOISE)
    pipe.discard(99_990)
    assert pipe.read(10) == NOISE[99_990:]


def test_copying_into_what_is_no_pipe_is_an_error() -> None:
    pipe, closed = filled(b"x"), Pipe()
    closed.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        pipe.duplicate(closed, 1)


def test_a_pipe_that_nobody_holds_is_closed() -> None:
    pipe = Pipe()
    descriptors = pipe.source, pipe.sink
    del pipe
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_an_emptied_pipe_is_used_again_and_few_are_kept() -> None:
    pipe = pipes.take()
    pipes.give_back(pipe)
    assert pipes.take() is pipe
    for _ in range(MOST_SPARE + 5):
        pipes.give_back(Pipe(4096))
    assert len(pipes._spare) == MOST_SPARE
    pipes._spare.clear()


@pytest.fixture
def no_descriptors() -> Iterator[None]:
    pipes._spare.clear()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_a_pipe_holds_can_be_forgotten_without_descriptors(request: pytest.FixtureRequest) -> None:
    """It is what the peer has confirmed, as it is for all streams of the link."""
    pipes._nowhere.cache_clear()
    pipe = filled(NOISE[:5000])
    request.getfixturevalue("no_descriptors")
    pipe.discard(4000)
    assert pipe.read(1000) == NOISE[4000:5000]


@pytest.mark.usefixtures("no_descriptors")
def test_without_descriptors_there_is_no_pipe() -> None:
    with pytest.raises(OSError, match="Too many open files"):
        pipes.take()
