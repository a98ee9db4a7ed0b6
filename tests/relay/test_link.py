"""A link: which connection gets the session, opening streams, and the end of a session."""

from __future__ import annotations

import asyncio
import itertools
import socket

import pytest

from tests.support.links import (
    Pair,
    Requests,
    called_by,
    ending,
    exchange,
    goodbye,
    join,
    last,
    make_link,
    offered,
    receive,
    requests_of,
)
from tests.support.pipelane import pipe
from tests.support.waiting import turns, until
from tunnel.errors import UnreachableError
from tunnel.relay import incidents
from tunnel.relay.incidents import IncidentKind
from tunnel.relay.link import LinkState
from tunnel.units import KIB, MIB
from tunnel.wire.codes import Code
from tunnel.wire.frames import Credit, Hello, Limits
from tunnel.wire.session import Session

# Sessions.


async def test_dialling_makes_a_session(pair: Pair) -> None:
    assert (pair.a.state, pair.b.state) == (LinkState.UP, LinkState.UP)
    assert pair.a.session is not None
    assert pair.b.session is not None
    assert (pair.a.session.initiator, pair.b.session.initiator) == (True, False)
    assert pair.a.session.id == pair.b.session.id
    assert pair.a.members.offer is None


@pytest.mark.parametrize(("host", "peer", "welcomed"), [("hosta", "hostb", False), ("hostb", "hosta", True)])
async def test_when_both_dial_the_smaller_name_wins(host: str, peer: str, welcomed: bool) -> None:
    link = make_link(host, peer)
    ours, _ = pipe(host, peer)
    link.members.send_hello(ours, b"O" * 16)
    theirs = called_by(link)
    theirs.say(offered(b"P" * 16))
    await turns()
    assert (link.session is not None) is welcomed
    assert (link.members.offer is None) is welcomed
    if not welcomed:
        assert theirs.far is None
    link.end(Code.NONE, "")
    ours.abort()
    theirs.abort()


async def test_both_dialling_agree_on_one_session() -> None:
    a, b = make_link("hosta", "hostb"), make_link("hostb", "hosta")
    from_a, from_b = join(a, b), join(b, a)
    await until(lambda: a.lanes and b.lanes, "for a session")
    await turns()
    assert a.session is not None
    assert b.session is not None
    assert a.session.id == b.session.id
    assert (list(a.lanes.values()), from_b.far) == ([from_a], None)
    for link in (a, b):
        link.end(Code.NONE, "")


async def test_second_connection_of_the_same_daemon_is_refused(pair: Pair) -> None:
    again = called_by(pair.b)
    assert again.far is not None
    far = again.far
    again.say(offered(pair.a.members.instance))
    await turns()
    assert goodbye(far.said) is Code.COLLISION
    assert pair.b.state is LinkState.UP
    assert pair.a.state is LinkState.UP


async def test_restarted_peer_gets_a_new_session_and_old_streams_are_reset(pair: Pair) -> None:
    caller, called = await pair.stream()
    pair.lane.cut(noticed=False)
    restarted = make_link("hosta", "hostb", b"N" * 16)
    join(restarted, pair.b)
    await until(lambda: restarted.lanes, "for the new session")
    assert await ending(called) == "reset"
    pair.a.end(Code.NONE, "it is killed")
    assert await ending(caller) == "reset"
    assert ("link down", "hosta began a new session") in [(i.kind, i.reason) for i in pair.b.incidents]
    restarted.end(Code.NONE, "")


async def test_same_daemon_may_begin_a_new_session_when_its_lane_is_gone(pair: Pair) -> None:
    """It dropped the session before we did."""
    caller, called = await pair.stream()
    pair.lane.cut()
    await until(lambda: pair.b.state is LinkState.RESUMING, "for the loss")
    again = called_by(pair.b)
    again.say(offered(pair.a.members.instance))
    await until(lambda: pair.b.state is LinkState.UP, "for a new session")
    assert await ending(called) == "reset"
    caller.close()


async def test_late_answer_is_a_collision(pair: Pair) -> None:
    fresh = make_link("hosta", "hostb")
    lane = join(fresh, make_link("hostb", "hosta"))
    fresh.members.offer = None  # abandoned in the meantime
    await turns()
    assert goodbye(lane.said) is Code.COLLISION
    assert fresh.session is None


async def test_peer_of_another_version_is_refused_with_the_reason() -> None:
    link = make_link("hostb", "hosta")
    theirs = called_by(link)
    assert theirs.far is not None
    far = theirs.far
    theirs.say(Hello(8, 9, offered(b"").features, b"S" * 16, b"P" * 16, Limits(1, 1)))
    await turns()
    assert goodbye(far.said) is Code.VERSION
    assert link.session is None
    assert last(link) == (
        "lane rejected",
        "no common version: the initiator offers 8 to 9, the acceptor supports 1 [VERSION]",
    )


# Opening.


async def test_stream_waits_for_the_link() -> None:
    a, b = make_link("hosta", "hostb"), make_link("hostb", "hosta")
    here, caller = socket.socketpair()
    opening = asyncio.create_task(a.open(here, "tcp:127.0.0.1:49152", asyncio.get_running_loop().time() + 10))
    await turns()
    assert not opening.done()
    join(a, b)
    await opening
    await until(lambda: requests_of(b).wanted == [1], "for the request")
    for link in (a, b):
        link.end(Code.NONE, "")
    caller.close()


async def test_without_a_link_the_error_has_the_cause() -> None:
    link = make_link("hosta", "hostb")
    link.note(IncidentKind.CANNOT_CONNECT, "hostb is on fire")
    with (
        socket.socket() as sock,
        pytest.raises(UnreachableError, match=r"hostb \(last error: hostb is on fire"),
    ):
        await link.open(sock, "tcp:127.0.0.1:1", asyncio.get_running_loop().time() + 0.01)


async def test_bulk_does_not_block_the_loop(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "turn", 20 * KIB)
    caller, called = await pair.stream()
    pair.lane.room, pair.lane.batch = False, 16 * KIB
    sent = caller.send(bytes(MIB))
    await turns()
    pair.lane.room = True
    before = len(pair.lane.said)
    pair.a.on_writable(pair.lane)
    assert len(pair.lane.said) - before < 40 * KIB < sent
    assert len(await receive(called, sent)) == sent


async def test_full_lane_is_left_alone_until_it_has_room(pair: Pair) -> None:
    caller, called = await pair.stream()
    await exchange(caller, called)
    pair.lane.room = False
    caller.send(b"later")
    await turns()
    before = len(pair.lane.said)
    await turns()
    assert len(pair.lane.said) == before
    pair.lane.room = True
    pair.a.on_writable(pair.lane)
    assert await receive(called, 5) == b"later"


# The end.


async def test_goaway_ends_both_sides_immediately(pair: Pair) -> None:
    caller, called = await pair.stream()
    await asyncio.wait_for(pair.a.close(Code.NONE, "hosta is stopping"), 5)
    assert [await ending(caller), await ending(called)] == ["reset", "reset"]
    assert pair.b.state is LinkState.DOWN
    assert last(pair.b) == ("link down", "hosta closed the link: hosta is stopping")
    assert requests_of(pair.b).closed == 1


async def test_closing_waits_for_the_lane(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair.lane, "_begin_linger", lambda: None)
    closing = asyncio.create_task(pair.a.close(Code.NONE, "over"))
    await turns()
    assert not closing.done()
    pair.lane._release()
    await asyncio.wait_for(closing, 5)


async def test_end_is_a_change(pair: Pair) -> None:
    waiting = asyncio.create_task(pair.a.wait_change())
    await turns()
    pair.a.end(Code.NONE, "over")
    await asyncio.wait_for(waiting, 5)


async def test_protocol_error_of_the_peer_ends_the_session(pair: Pair) -> None:
    caller, called = await pair.stream()
    assert pair.lane.far is not None
    far = pair.lane.far
    pair.lane.say(Credit(77, 0, 1))
    assert await ending(called) == "reset"
    assert goodbye(far.said) is Code.STREAM_STATE
    assert "which was never opened" in last(pair.b)[1]
    assert await ending(caller) == "reset"


async def test_ending_twice_changes_nothing(pair: Pair) -> None:
    pair.a.end(Code.NONE, "once")
    count = len(pair.a.incidents)
    pair.a.end(Code.NONE, "twice")
    await pair.a.close(Code.NONE, "and again")
    assert len(pair.a.incidents) == count


async def test_since_is_the_time_of_the_last_change_of_state(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(incidents, "now", lambda: float(next(clock)))
    pair = Pair()
    since = [pair.a.since]
    await pair.up()
    since.append(pair.a.since)
    pair.a.note(IncidentKind.CALLER_REFUSED, "nothing changed", code="NONE")
    assert pair.a.since == since[-1]
    assert pair.a.incidents[-1].code == "NONE"
    pair.a.end(Code.NONE, "done")
    since.append(pair.a.since)
    assert since == sorted(set(since))
    assert pair.a.incidents[-1].last > since[-1], "the reason of a state is not older"


async def test_refused_clients_are_not_the_cause_of_a_missing_link() -> None:
    link = make_link("hosta", "hostb")
    link.note(IncidentKind.CANNOT_CONNECT, "Connection refused")
    link.note(IncidentKind.CALLER_REFUSED, "user nobody may not use this ingress (allowed: root)")
    now = asyncio.get_running_loop().time()
    with socket.socket() as sock, pytest.raises(UnreachableError) as caught:
        await link.open(sock, "tcp:127.0.0.1:1", now)
    assert str(caught.value) == "no link with hostb (last error: Connection refused)"


async def test_requests_are_dropped_with_the_session(pair: Pair) -> None:
    await pair.request(pair.a)
    await until(lambda: requests_of(pair.b).wanted, "for the request")
    pair.a.end(Code.NONE, "over")
    await until(lambda: requests_of(pair.b) == Requests(closed=1), "for the end")
