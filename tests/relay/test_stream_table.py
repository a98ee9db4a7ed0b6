"""Streams from the client's socket to the target's, and what each end sees when the other fails."""

from __future__ import annotations

import array
import asyncio
import socket
import tempfile

import pytest

from tests.support.links import (
    Pair,
    ending,
    exchange,
    last,
    receive,
    requests_of,
    reset,
)
from tests.support.waiting import turns, until
from tunnel.errors import RefusedError, UnreachableError
from tunnel.relay import stream_io as module
from tunnel.relay import stream_timeouts
from tunnel.relay.link import Link
from tunnel.relay.pump import Pump
from tunnel.wire.codec import data_header
from tunnel.wire.codes import Code
from tunnel.wire.frames import Limits
from tunnel.wire.session import Settings


async def test_draining_opens_no_streams(pair: Pair) -> None:
    caller, called = await pair.stream()
    for link in (pair.a, pair.b):
        link.streams.draining = True
    with socket.socket() as sock, pytest.raises(RefusedError, match="this host is stopping"):
        await pair.a.open(sock, "tcp:127.0.0.1:1", 0)
    pair.b.streams.draining, pair.a.streams.draining = True, False
    late = await pair.request(pair.a)
    assert await ending(late) == "reset"
    assert last(pair.a) == ("stream refused by the peer", "hostb is stopping")
    await exchange(caller, called)


async def test_refusal_resets_the_client_and_is_reported(pair: Pair) -> None:
    caller = await pair.request(pair.a)
    await until(lambda: requests_of(pair.b).wanted, "for the request")
    pair.b.streams.on_not_dialled(
        requests_of(pair.b).wanted.pop(), RefusedError("no way", Code.TARGET_FORBIDDEN)
    )
    assert await ending(caller) == "reset"
    assert last(pair.a) == ("stream refused by the peer", "no way")
    assert not pair.a.streams.pumps


async def test_limit_of_the_peer_applies() -> None:
    pair = await Pair(settings=Settings(limits=Limits(2, 1024))).up()
    for _ in range(2):
        await pair.request(pair.a)
    with socket.socket() as sock, pytest.raises(RefusedError, match="the peer allows 2 streams at once"):
        await pair.a.open(sock, "tcp:127.0.0.1:1", 0)
    await until(lambda: pair.b.incidents, "for the peer to report it as well")
    assert last(pair.b)[0] == "stream limit reached"
    pair.close()


async def test_connection_beyond_the_limit_waits_for_a_stream_to_end() -> None:
    pair = await Pair(settings=Settings(limits=Limits(1, 1024))).up()
    caller, called = await pair.stream()
    late = asyncio.create_task(pair.stream())
    await turns()
    assert not late.done()
    assert not requests_of(pair.b).wanted
    reset(called)
    assert await ending(caller) == "reset"
    await exchange(*await late)
    pair.close()


async def test_client_that_disconnects_while_waiting_is_not_passed_on() -> None:
    pair = await Pair(settings=Settings(limits=Limits(1, 1024))).up()
    _, called = await pair.stream()
    here, caller = pair.local()
    late = asyncio.create_task(
        pair.a.open(here, "tcp:127.0.0.1:49152", asyncio.get_running_loop().time() + 20)
    )
    await turns()
    caller.close()
    reset(called)
    with pytest.raises(RefusedError, match="the client disconnected while waiting"):
        await late
    assert not requests_of(pair.b).wanted
    here.close()
    pair.close()


async def test_link_that_ends_while_a_connection_waits_for_a_stream_is_waited_for() -> None:
    pair = await Pair(settings=Settings(limits=Limits(1, 1024))).up()
    await pair.stream()
    here, _ = pair.local()
    deadline = asyncio.get_running_loop().time() + 0.3
    late = asyncio.create_task(pair.a.open(here, "tcp:127.0.0.1:49152", deadline))
    await turns()
    pair.a.end(Code.NONE, "over")
    with pytest.raises(UnreachableError, match="no link with hostb"):
        await late
    here.close()
    pair.close()


async def test_bytes_pass_both_ways_and_the_stream_ends(pair: Pair) -> None:
    for opener in (pair.a, pair.b):
        caller, called = await pair.stream(opener)
        await exchange(caller, called)
        caller.shutdown(socket.SHUT_WR)
        assert await ending(called) == "close"
        called.send(b"late")
        called.shutdown(socket.SHUT_WR)
        assert await receive(caller, 4) == b"late"
        assert await ending(caller) == "close"
        await until(lambda: not pair.a.streams.pumps and not pair.b.streams.pumps, "for the end")
    assert not pair.a.incidents


async def test_data_before_the_target_is_dialled_waits(pair: Pair) -> None:
    here, caller = pair.local()
    caller.send(b"early")
    await pair.a.open(here, "tcp:127.0.0.1:49152", asyncio.get_running_loop().time() + 5)
    await until(lambda: requests_of(pair.b).wanted, "for the request")
    there, called = pair.local()
    pair.b.streams.on_dialled(requests_of(pair.b).wanted.pop(), there)
    assert await receive(called, 5) == b"early"


async def test_data_is_reassembled(pair: Pair) -> None:
    """A gap on one lane is unusual, but allowed; data after it is kept although its buffer is reused."""
    caller, called = await pair.stream()
    for offset, text in ((5, b"world"), (0, b"hello")):
        pair.lane.send_control(data_header(1, offset, 5) + text)
        pair.lane.flush()
        await turns()
    assert await receive(called, 10) == b"helloworld"
    caller.close()


async def test_small_deliveries_are_acknowledged_soon(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting for the tick of the lane, every few seconds."""
    monkeypatch.setattr(Link, "on_tick", lambda link, lane: None)
    caller, called = await pair.stream()
    await exchange(caller, called)
    await until(lambda: pair.a.session and pair.a.session.kept == 0, "for the acknowledgement")


async def test_reset_of_one_hypervisor_resets_the_other(pair: Pair) -> None:
    caller, called = await pair.stream()
    await exchange(caller, called)
    reset(called)
    assert await ending(caller) == "reset"
    what, reason = last(pair.a)
    assert what == "stream reset by the peer"
    assert reason.startswith("on hostb: ")
    assert reason.endswith("Connection reset by peer")
    assert last(pair.b) == ("stream reset", reason)
    assert not pair.b.streams.pumps


async def test_data_of_a_client_that_has_closed_is_delivered(pair: Pair) -> None:
    caller, called = await pair.stream(unix=True)
    pair.lane.room = False
    caller.send(b"last words")
    caller.close()
    called.send(b"are you there?")
    await until(lambda: pair.a.streams.pumps[1].broken, "for the answer to fail")
    assert pair.a.streams.pumps, "the stream continues: it has data to send"
    pair.lane.room = True
    pair.a.on_writable(pair.lane)
    assert await receive(called, 10) == b"last words"
    assert await ending(called) in {"close", "reset"}
    await until(lambda: not pair.a.streams.pumps and not pair.b.streams.pumps, "for the end")
    assert last(pair.a)[1].endswith("the local socket was closed before all bytes were delivered")


async def test_answer_to_a_client_that_has_closed_is_reset(pair: Pair) -> None:
    caller, called = await pair.stream(unix=True)
    caller.close()
    assert await ending(called) == "close"
    called.send(b"are you there?")
    await until(lambda: not pair.b.streams.pumps, "for the reset")
    assert last(pair.a)[1].endswith("Broken pipe")


async def test_client_that_disconnects_before_the_target_is_dialled(pair: Pair) -> None:
    caller = await pair.request(pair.a)
    await until(lambda: requests_of(pair.b).wanted, "for the request")
    caller.close()
    there, called = pair.local()
    pair.b.streams.on_dialled(requests_of(pair.b).wanted.pop(), there)
    assert await ending(called) == "close"


async def test_reset_while_dialling_cancels_the_request(pair: Pair) -> None:
    await pair.request(pair.a)
    await until(lambda: requests_of(pair.b).wanted, "for the request")
    pair.a.streams._abandon(1, Code.LOCAL_RESET, "changed its mind")
    await until(lambda: requests_of(pair.b).cancelled == [1], "for the cancellation")


async def test_idle_half_closed_stream_is_reset(pair: Pair) -> None:
    reap, limit = pair.a.streams.reap_silent, stream_timeouts.HALF_CLOSED
    caller, called = await pair.stream()
    other_caller, other_called = await pair.stream()
    caller.shutdown(socket.SHUT_WR)
    assert await ending(called) == "close"
    for time in range(4):
        called.send(b".")
        await receive(caller, 1)
        reap(time * limit)  # an active stream is not reset
    for _ in range(1000):
        reap(4 * limit - stream_timeouts.LEFT)  # however often it is checked: each lane has a tick
    await exchange(other_caller, other_called)
    assert not pair.a.incidents
    reap(4 * limit)
    assert await ending(caller) == "reset"
    assert last(pair.a) == ("stream reset", "on hosta: half-closed and idle for too long")
    assert not pair.a.streams._silence.lasting(0, 10 * limit), "no state is left"
    await exchange(other_caller, other_called)


class Attentive(Pump):
    """Records how much was released."""

    released = 0

    def release(self, offset: int) -> None:
        self.released = offset


@pytest.mark.parametrize("lost", [False, True], ids=["by CREDIT", "by RESUME"])
async def test_pump_releases_what_the_peer_delivered(lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ACK_DELAY", 3600)
    pair = await Pair(pump=Attentive).up()
    caller, called = await pair.stream()
    await exchange(caller, called)
    pump = pair.a.streams.pumps[1]
    assert isinstance(pump, Attentive)
    assert pump.released == 0, "too little for an immediate CREDIT"
    if lost:
        pair.lane.cut()
        await until(lambda: not (pair.a.lanes or pair.b.lanes), "for the loss")
        await pair.resume()
    else:
        pair.b.on_tick(pair.b.lanes[1])
    await until(lambda: pump.released == len(b"there"), "for the release")
    caller.send(b"more")
    caller.shutdown(socket.SHUT_WR)
    await until(lambda: pump.released == len(b"theremore"), "for DELIVERED")
    pair.close()


async def test_descriptors_end_the_stream_with_a_reason_on_both_sides(pair: Pair) -> None:
    caller, called = await pair.stream(unix=True)
    await exchange(caller, called)
    with tempfile.TemporaryFile() as file:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))
        caller.sendmsg([b"take this"], [rights])
    assert await ending(called) == "reset"
    why = "file descriptors cannot be passed to another host"
    assert last(pair.a)[0] == "stream reset"
    assert last(pair.a)[1].endswith(why)
    assert last(pair.b)[0] == "stream reset by the peer"
    assert last(pair.b)[1].endswith(why)


@pytest.mark.parametrize("fate", ["opened", "refused", "reset", "link down"])
async def test_answer_is_reported_once(pair: Pair, fate: str) -> None:
    told: list[str] = []
    here, caller = pair.local()
    await pair.a.open(here, "tcp:127.0.0.1:49152", 0, None, lambda: told.append(fate))
    await until(lambda: requests_of(pair.b).wanted, "for the request")
    assert not told
    match fate:
        case "opened":
            there, _ = pair.local()
            pair.b.streams.on_dialled(requests_of(pair.b).wanted.pop(), there)
        case "refused":
            error = RefusedError("no way", Code.TARGET_FORBIDDEN)
            pair.b.streams.on_not_dialled(requests_of(pair.b).wanted.pop(), error)
        case "reset":
            reset(caller)
        case "link down":
            pair.a.end(Code.NONE, "the test ends it")
    await until(lambda: told, "for the answer")
    pair.a.end(Code.NONE, "the test is over")
    assert told == [fate]


async def test_peer_at_its_limit_over_all_sessions_is_refused(pair: Pair) -> None:
    pair.b.streams.count_theirs = lambda: 513
    caller = await pair.request(pair.a)
    assert await ending(caller) == "reset"
    assert "hostb allows 512 streams at once" in last(pair.a)[1]
    assert not requests_of(pair.b).wanted
