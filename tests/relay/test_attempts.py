"""Messages in each state of a lane, and what they end: only the attempt, or the session on both sides.

Also late messages: they affect only the session that they belong to, none that began since.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.support.links import Pair, called_by, ending, exchange, last, make_link, offered
from tests.support.pipelane import PipeLane, pipe
from tests.support.waiting import turns, until
from tunnel.errors import LaneStalled, ProtocolError, RefusedError
from tunnel.relay.dialer import Dialer, DialPlan, OutgoingLane
from tunnel.relay.lane_acceptor import IncomingLane
from tunnel.relay.link import Link, LinkState
from tunnel.relay.timeouts import Timeouts
from tunnel.wire.codec import encode
from tunnel.wire.codes import Code
from tunnel.wire.frames import Frame, GoAway, Limits, Ping, Resumed
from tunnel.wire.negotiation import welcome
from tunnel.wire.session import Settings
from tunnel.wire.states import LaneState

NOBODY, LANE, SESSION = "nobody", "lane", "session"
ABORT = None  # in place of a message: TCP is closed
UNKNOWN = GoAway(Code.SESSION_UNKNOWN, "no such session")


@dataclass
class Lane:
    """A lane that ``a`` dials: what one end sends is delivered when the test says so."""

    near: PipeLane
    far: PipeLane

    def to_far(self, *frames: Frame) -> None:
        for frame in frames:
            self.far.receive(encode(frame))

    def to_near(self, *frames: Frame) -> None:
        for frame in frames:
            self.near.receive(encode(frame))

    def deliver(self, source: PipeLane) -> None:
        """Deliver everything that ``source`` has sent."""
        source.flush()
        raw, source.said = bytes(source.said), bytearray()
        (self.far if source is self.near else self.near).receive(raw)


_made: list[PipeLane] = []


def apart(dialing: str, accepting: str, state: LaneState) -> tuple[PipeLane, PipeLane]:
    """Return the ends of a lane that delivers nothing automatically."""
    ends = near, far = pipe(dialing, accepting, state)
    near.far = far.far = None
    _made.extend(ends)
    return ends


@pytest.fixture(autouse=True)
async def _close_lanes() -> AsyncIterator[None]:
    yield
    while _made:
        _made.pop().abort()


def dial(a: Link, b: Link) -> Lane:
    """Let ``a`` send HELLO or RESUME, which is not delivered yet."""
    resuming = a.members.wants_lane
    state = LaneState.AWAIT_RESUMED if resuming else LaneState.AWAIT_WELCOME
    near, far = apart(a.plan.host, b.plan.host, state)
    applicant = OutgoingLane(a)
    applicant._done.add_done_callback(lambda done: done.exception())
    far.start(IncomingLane(b, b.plan.timeouts))
    near.start(applicant)
    if resuming:
        a.members.send_resume(near)
    else:
        a.members.send_hello(near, b"S" * 16)
    return Lane(near, far)


def granting(lanes: int) -> Settings:
    return Settings(Limits(256, 1024, lanes))


def states(pair: Pair) -> tuple[LinkState, LinkState]:
    return pair.a.state, pair.b.state


# State of the initiator, state of the acceptor, who sends what (or closes TCP), what ends.
CASES = [
    ("AWAIT", "AWAIT_FIRST", "initiator", ABORT, NOBODY),
    ("AWAIT", "AWAIT_FIRST", "initiator", GoAway(Code.TIMEOUT, "no answer"), NOBODY),
    ("AWAIT", "AWAIT_FIRST", "acceptor", GoAway(Code.HANDSHAKE, "no first frame received"), NOBODY),
    ("AWAIT", "AWAIT_FIRST", "acceptor", GoAway(Code.COLLISION, "another one"), NOBODY),
    ("AWAIT", "ANSWERED", "initiator", ABORT, LANE),
    ("AWAIT", "ANSWERED", "initiator", GoAway(Code.TIMEOUT, "no answer"), LANE),
    ("AWAIT", "ANSWERED", "initiator", GoAway(Code.NONE, "never mind"), LANE),
    ("ATTACHED", "ANSWERED", "initiator", "end", SESSION),
    ("ATTACHED", "ANSWERED", "acceptor", "end", SESSION),
    ("ATTACHED", "ATTACHED", "initiator", "end", SESSION),
    ("ATTACHED", "ATTACHED", "acceptor", "end", SESSION),
]


async def reach(lane: Lane, here: str, there: str) -> None:
    """Bring both ends of a lane into these states."""
    if there != "AWAIT_FIRST":
        lane.deliver(lane.near)
        assert lane.far.state is LaneState.ANSWERED
    if here == "ATTACHED":
        lane.deliver(lane.far)
        assert lane.near.state is LaneState.ATTACHED
    if there == "ATTACHED":
        lane.to_far(Ping(7))
    assert lane.far.state is LaneState[there]


async def leave(pair: Pair, lane: Lane, who: str, message: Frame | str | None) -> None:
    """Let the initiator or the acceptor end the lane in this way, and deliver that to the other."""
    near_goes = who == "initiator"
    if message == "end":
        link, end = (pair.a, lane.near) if near_goes else (pair.b, lane.far)
        link.end(Code.NONE, "the host is stopping")
        lane.deliver(end)
    elif isinstance(message, GoAway):
        (lane.to_far if near_goes else lane.to_near)(message)
        (lane.near if near_goes else lane.far).abort()
    else:
        (lane.near if near_goes else lane.far).abort()
        (lane.far if near_goes else lane.near)._lost("the connection was reset")
    await turns()


@pytest.mark.parametrize(("here", "there", "who", "message", "ends"), CASES)
async def test_what_ends_with_one_more_lane(
    here: str, there: str, who: str, message: Frame | str | None, ends: str
) -> None:
    pair = await Pair(settings=granting(2)).up()
    caller, called = await pair.stream()
    lane = dial(pair.a, pair.b)
    await reach(lane, here, there)
    await leave(pair, lane, who, message)
    if ends == SESSION:
        assert pair.a.state is pair.b.state is LinkState.DOWN
        assert [await ending(caller), await ending(called)] == ["reset", "reset"]
    else:
        assert list(pair.a.lanes) == list(pair.b.lanes) == [1]
        await exchange(caller, called)
    pair.close()


@pytest.mark.parametrize(("here", "there", "who", "message", "ends"), CASES)
async def test_what_ends_with_a_lane_that_replaces_the_only_one(
    here: str, there: str, who: str, message: Frame | str | None, ends: str
) -> None:
    pair = await Pair().up()
    caller, called = await pair.stream()
    pair.lane.cut()
    await until(lambda: pair.a.state is pair.b.state is LinkState.RESUMING, "for the loss")
    lane = dial(pair.a, pair.b)
    await reach(lane, here, there)
    await leave(pair, lane, who, message)
    if ends == SESSION:
        assert pair.a.state is pair.b.state is LinkState.DOWN
        assert [await ending(caller), await ending(called)] == ["reset", "reset"]
    else:
        assert pair.a.state is pair.b.state is LinkState.RESUMING
        await pair.resume()
        await exchange(caller, called)
    pair.close()


@pytest.mark.parametrize(("here", "there", "who", "message", "ends"), CASES)
async def test_what_ends_with_the_first_lane(
    here: str, there: str, who: str, message: Frame | str | None, ends: str
) -> None:
    pair = Pair.__new__(Pair)
    pair.a, pair.b, pair.sockets = make_link("hosta", "hostb"), make_link("hostb", "hosta"), []
    lane = dial(pair.a, pair.b)
    await reach(lane, here, there)
    await leave(pair, lane, who, message)
    pair.a.members.offer = None  # as the dialer does after each attempt
    before = states(pair)
    assert before == (LinkState.DOWN, LinkState.RESUMING if ends == LANE else LinkState.DOWN)
    again = dial(pair.a, pair.b)
    await reach(again, "ATTACHED", "ATTACHED")
    assert states(pair) == (LinkState.UP, LinkState.UP)
    pair.close()


async def test_session_unknown_ends_the_session_that_resume_named() -> None:
    pair = await Pair().up()
    caller, called = await pair.stream()
    near, attempt = await asking(pair)
    near.receive(encode(UNKNOWN))
    with pytest.raises(RefusedError, match="no such session"):
        await attempt
    pair.b.end(Code.LINK_LOST, "no lane resumed")
    assert pair.a.state is LinkState.DOWN
    assert [await ending(caller), await ending(called)] == ["reset", "reset"]
    pair.close()


async def test_abandoned_attempt_sends_nothing() -> None:
    """Unsent frames are not sent later either: an old HELLO would end a new session."""
    pair = await Pair(settings=granting(2), timeouts=Timeouts(answer=0.01)).up()
    caller, called = await pair.stream()
    lane = dial(pair.a, pair.b)
    lane.deliver(lane.near)
    applicant = lane.near._handler
    assert isinstance(applicant, OutgoingLane)
    with pytest.raises(LaneStalled, match="accepted the connection but sent no reply"):
        await applicant.outcome(lane.near)
    assert not lane.near.said
    assert lane.near.aborted
    lane.far._lost("the connection was reset")
    await turns()
    assert list(pair.b.lanes) == [1]
    await exchange(caller, called)
    pair.close()


# Late messages.


async def asking(pair: Pair) -> tuple[PipeLane, asyncio.Task[None]]:
    """Cut the lane, and let a dialer of ``a`` send RESUME, undelivered; return that lane and the attempt."""
    pair.lane.cut()
    await until(lambda: pair.a.members.wants_lane and pair.b.state is LinkState.RESUMING, "for the loss")
    near, _ = apart("hosta", "hostb", LaneState.AWAIT_RESUMED)
    dialer = Dialer(DialPlan("192.0.2.1", 1, lambda: pytest.fail("nothing is dialled"), None), pair.a)
    attempt = asyncio.create_task(dialer._resume(near))
    await until(lambda: near.said, "for RESUME")
    return near, attempt


async def renew(pair: Pair) -> None:
    """End the session on both sides, and begin another."""
    for link in (pair.a, pair.b):
        link.end(Code.LINK_LOST, "no lane resumed")
    pair.lane = await begin(pair)


async def begin(pair: Pair) -> PipeLane:
    """Begin a new session over a lane that works."""
    near, far = pipe("hosta", "hostb")
    far.start(IncomingLane(pair.b, pair.b.plan.timeouts))
    near.start(OutgoingLane(pair.a))
    pair.a.members.send_hello(near, b"N" * 16)
    await until(lambda: pair.a.lanes and pair.b.lanes, "for the new session")
    return near


async def test_session_unknown_for_an_old_session_leaves_the_new_one_alone() -> None:
    pair = await Pair().up()
    near, attempt = await asking(pair)
    await renew(pair)
    caller, called = await pair.stream()
    near.receive(encode(UNKNOWN))
    with pytest.raises(RefusedError, match="no such session"):
        await attempt
    assert pair.a.state is LinkState.UP
    await exchange(caller, called)
    pair.close()


async def test_resumed_for_an_old_session_leaves_the_new_one_alone() -> None:
    pair = await Pair().up()
    near, attempt = await asking(pair)
    old = pair.a.session
    assert old is not None
    await renew(pair)
    caller, called = await pair.stream()
    near.receive(encode(Resumed(old.id, 2, 1, 0, 1024, ())))
    with pytest.raises(ProtocolError, match="RESUMED for another session"):
        await attempt
    assert list(pair.a.lanes.values()) == [pair.lane]
    await exchange(caller, called)
    pair.close()


async def test_welcome_of_an_attempt_that_the_peer_overtook_leaves_the_new_session_alone() -> None:
    """It immediately ends the peer's session: else each side would wait for the other to resume."""
    a, b = make_link("hosta", "hostb"), make_link("hostb", "hosta")
    late = dial(b, a)
    lane = dial(a, b)
    lane.deliver(lane.near)
    lane.deliver(lane.far)
    session = b.session
    a.end(Code.NONE, "lost here, not yet at the other end")
    late.deliver(late.near)
    assert a.session is not None
    late.deliver(late.far)
    assert b.session is session
    late.deliver(late.near)
    await turns()
    assert a.state is LinkState.DOWN
    assert last(a)[0] == "link down"
    for link in (a, b):
        link.end(Code.NONE, "the test is over")


async def test_offer_that_was_checked_against_an_old_session_leaves_the_new_one_alone() -> None:
    """The check of the old lanes ends late: by then that session has ended, and another has begun."""
    pair = await Pair().up()
    assert pair.lane.far is not None
    pair.lane.far.far = None  # it no longer answers
    other = called_by(pair.b)
    _made.append(other)
    other.say(offered(b"another instance"))
    await turns()
    assert list(pair.b.lanes.values()) != [other.far], "the check has not ended yet"
    for link in (pair.a, pair.b):
        link.end(Code.LINK_LOST, "no lane resumed")
    near, far = apart("hosta", "hostb", LaneState.AWAIT_WELCOME)
    far.start(IncomingLane(pair.b, pair.b.plan.timeouts))
    offer = offered(pair.a.members.instance, b"N" * 16)
    pair.b.members._accept(
        far, offer, welcome(offer, pair.b.members.instance, offer.limits), None
    )  # in the same loop iteration
    session = pair.b.session
    await turns()
    assert pair.b.session is session
    assert list(pair.b.lanes.values()) == [far]
    near.abort()
    pair.close()


async def test_what_an_old_session_scheduled_leaves_the_new_one_alone() -> None:
    """By a queued callback, or by the end of an old lane."""
    pair = await Pair().up()
    old, lane = pair.a.session, pair.lane
    pair.a.end(Code.NONE, "over")
    await until(lambda: pair.b.state is LinkState.DOWN, "for the end")
    pair.lane = await begin(pair)
    caller, called = await pair.stream()
    pair.a.end(Code.LINK_LOST, "no lane resumed", old)
    pair.a.on_end(lane, RefusedError("hostb closed the link", Code.NONE))
    assert pair.a.state is LinkState.UP
    await exchange(caller, called)
    pair.close()


async def test_timer_of_an_old_session_leaves_the_new_one_alone() -> None:
    """Cancelling is not enough: the callback of an expired timer may already be queued in the loop."""
    pair = await Pair(resume_window=0.1).up()
    pair.lane.cut()
    await until(lambda: pair.a._give_up, "for the loss")
    late = asyncio.Event()
    asyncio.get_running_loop().call_later(0.15, late.set)
    pair.a._give_up = None  # as if it were too late to cancel it
    for link in (pair.a, pair.b):
        link.end(Code.NONE, "over")
    pair.lane = await begin(pair)
    caller, called = await pair.stream()
    await late.wait()
    await exchange(caller, called)
    assert pair.a.state is LinkState.UP
    pair.close()
