"""Ends and resets of sockets that are neither read nor written."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from tests.support.network import tcp_pair
from tests.support.waiting import turns, unexpected, until
from tunnel.net.hangup import HangupWatch
from tunnel.net.sockets import reset


@dataclass
class Watched:
    """A watched socket, and its peer."""

    ours: socket.socket
    theirs: socket.socket
    told: list[bool] = field(default_factory=list)


@pytest.fixture
async def watch() -> AsyncIterator[HangupWatch]:
    with unexpected() as surprises:
        yield HangupWatch()
    assert not surprises, "\n".join(surprises)


@pytest.fixture(params=["tcp", "unix"])
def make(request: pytest.FixtureRequest, watch: HangupWatch) -> Callable[[], Watched]:
    def made() -> Watched:
        watched = Watched(*(tcp_pair() if request.param == "tcp" else socket.socketpair()))
        watch.add(watched.ours, watched.told.append)
        return watched

    return made


def forget(watch: HangupWatch, *all_watched: Watched) -> None:
    for watched in all_watched:
        watch.remove(watched.ours.fileno())
        watched.ours.close()
        watched.theirs.close()


async def test_bytes_are_not_reported(watch: HangupWatch, make: Callable[[], Watched]) -> None:
    one = make()
    one.theirs.send(b"hello")
    one.ours.send(b"back")
    assert one.theirs.recv(4) == b"back"
    await turns()
    assert one.told == []
    forget(watch, one)


async def test_an_end_is_reported_once_also_after_unread_bytes(
    watch: HangupWatch, make: Callable[[], Watched]
) -> None:
    one = make()
    one.theirs.send(b"last")
    one.theirs.shutdown(socket.SHUT_WR)
    await until(lambda: one.told)
    await turns()
    assert one.told == [False]
    forget(watch, one)


async def test_a_reset_is_reported_as_a_failure(watch: HangupWatch, make: Callable[[], Watched]) -> None:
    one, other = make(), make()
    one.ours.send(b"never read")
    one.theirs.send(b"never read either")
    reset(one.theirs)  # on unix sockets, because of the unread bytes
    await until(lambda: True in one.told)
    await turns()
    assert other.told == []
    forget(watch, one, other)


async def test_a_callback_may_remove_any_socket(watch: HangupWatch, make: Callable[[], Watched]) -> None:
    one, other = make(), make()
    called: list[Watched] = []

    def both(failed: bool) -> None:
        called.append(one)
        forget(watch, one, other)

    for watched in (one, other):
        watch.remove(watched.ours.fileno())
        watch.add(watched.ours, both)
        watched.theirs.close()
    await until(lambda: called)
    await turns()
    assert len(called) == 1
    assert watch._epoll is None


async def test_without_sockets_it_holds_no_descriptor(
    watch: HangupWatch, make: Callable[[], Watched]
) -> None:
    one, other = make(), make()
    forget(watch, one)
    assert watch._epoll is not None
    epoll = watch._epoll
    forget(watch, other)
    assert epoll.closed
    watch.remove(other.ours.fileno())  # closed already: nothing to do
    again = make()
    again.theirs.close()
    await until(lambda: again.told)
    forget(watch, again)
