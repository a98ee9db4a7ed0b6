"""The dialer: it connects, resumes, reports each failure once, and retries forever, with backoff."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.support.dialing import World, dialling, listening, receiving, running
from tests.support.links import join, make_link
from tests.support.network import TlsPeer
from tests.support.pipelane import pipe
from tests.support.waiting import until
from tunnel.lanes.base_lane import BaseLane
from tunnel.net import connect
from tunnel.net.sockets import reset
from tunnel.relay import dialer as module
from tunnel.relay.backoff import FIRST_PAUSE, Backoff
from tunnel.relay.dialer import Dialer, DialPlan
from tunnel.relay.lane_acceptor import LaneAcceptor
from tunnel.relay.link import Link, LinkState
from tunnel.relay.timeouts import Timeouts
from tunnel.wire.codec import encode
from tunnel.wire.codes import Code
from tunnel.wire.frames import GoAway, Hello, Resume, Welcome
from tunnel.wire.states import LaneState


def has_spoken(peer: TlsPeer) -> bool:
    return bool(peer.frames)


def have_lane(epoch: int, *links: Link) -> bool:
    return all(list(link.lanes) == [epoch] for link in links)


def refused(port: int) -> str:
    return (
        f"hostb at 127.0.0.1 port {port}: Connection refused; "
        "is mtunnel running there, with this port in host.listen?"
    )


def late(seconds: float) -> str:
    return f"timed out after {seconds:g} s; is the host up, and the port open in all firewalls on the path?"


def reasons(link: Link) -> list[str]:
    return [incident.reason for incident in link.incidents for _ in range(incident.count)]


async def test_links_come_up_when_the_peer_does(world: World) -> None:
    a, b = make_link("hosta", "hostb"), make_link("hostb", "hosta")
    async with dialling(a, world.plan()):
        await until(lambda: a.incidents, "for the first attempt")
        async with receiving(world, b):
            await until(lambda: a.state is b.state is LinkState.UP, "for the link")
    assert reasons(a)[0] == refused(world.port)


async def test_failure_is_reported_once_however_many_attempts(world: World) -> None:
    a = make_link("hosta", "hostb")
    async with dialling(a, world.plan()), listening(world) as accept:
        for _ in range(6):  # the last one after a pause of half a second
            reset(await accept())
    assert len(reasons(a)) == 1


async def test_failure_is_reported_again_after_a_success(world: World) -> None:
    a, b = make_link("hosta", "hostb", resume_window=0), make_link("hostb", "hosta")
    async with dialling(a, world.plan()):
        await until(lambda: reasons(a).count(refused(world.port)) == 1, "for the first failure")
        async with receiving(world, b):
            await until(lambda: a.lanes and b.lanes, "for the link")
        await until(lambda: reasons(a).count(refused(world.port)) == 2, "for the second failure")


async def test_lane_that_breaks_is_replaced(world: World) -> None:
    a, b = make_link("hosta", "hostb"), make_link("hostb", "hosta")
    async with dialling(a, world.plan()), receiving(world, b):
        for lost in (1, 2, 3):
            await until(partial(have_lane, lost, a, b), "for the lane")
            lane = b.lanes[lost]
            assert isinstance(lane, BaseLane)
            reset(socket.socket(fileno=os.dup(lane._sock.fileno())))
            lane._lost("the test broke it")
        await until(lambda: a.resumes == b.resumes == 3, "for the link to resume")


async def test_session_that_the_peer_forgot_ends_and_another_begins(world: World) -> None:
    a, b = make_link("hosta", "hostb"), make_link("hostb", "hosta")
    async with dialling(a, world.plan()):
        async with receiving(world, b):
            await until(lambda: a.lanes and b.lanes, "for the link")
            before = a.session
            [lane] = b.lanes.values()
            assert isinstance(lane, BaseLane)
            lane._lost("the host crashed")
        restarted = make_link("hostb", "hosta", b"R" * 16)
        async with receiving(world, restarted):
            await until(lambda: a.lanes and restarted.lanes, "for a new session")
        assert a.session is not before
    assert any("hostb has no such session with hosta" in reason for reason in reasons(a))


async def test_peer_with_another_name_is_refused(world: World) -> None:
    a = make_link("hosta", "hostb")
    async with dialling(a, world.plan()), listening(world) as accept:
        with pytest.raises(ssl.SSLError, match="alert bad certificate"):
            await TlsPeer.connect(await accept(), world.other, dialing=False)
        await until(lambda: a.incidents, "for the refusal")
    assert reasons(a)[0] == "the peer's certificate names hostc; expected hostb"


async def test_peer_that_breaks_off_the_handshake(world: World) -> None:
    a = make_link("hosta", "hostb")
    async with dialling(a, world.plan()), listening(world) as accept:
        reset(await accept())
        await until(lambda: a.incidents, "for the failure")
        closing = await accept()
        await asyncio.get_running_loop().sock_recv(closing, 4096)  # else the kernel sends a reset
        closing.close()
        await until(lambda: len(a.incidents) == 2, "for the failure")
    assert reasons(a) == [
        "connection lost during the TLS handshake: Connection reset by peer",
        "the peer closed the connection during the TLS handshake",
    ]


async def test_answer_that_comes_with_the_timeout_counts() -> None:
    """The timer fires before the waiting task sees the answer; the link owns the lane nevertheless."""
    a = make_link("hosta", "hostb", timeouts=Timeouts(answer=0))
    applicant = module.OutgoingLane(a)
    lane, far = pipe("hosta", "hostb", LaneState.AWAIT_WELCOME)
    lane.start(applicant)
    a.members.send_hello(lane, b"S" * 16)
    waiting = asyncio.create_task(applicant.outcome(lane))
    await asyncio.sleep(0)
    assert a.members.offer is not None
    applicant.on_frame(
        lane,
        Welcome(1, a.members.offer.features, a.members.offer.session, b"B" * 16, a.members.offer.limits),
        0,
    )
    await asyncio.wait_for(waiting, 5)
    assert a.lanes == {1: lane}
    a.end(Code.NONE, "the test is over")
    far.abort()


async def test_internal_error_is_reported_and_survived(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dialer, "_attempt", {}.__getitem__)
    a = make_link("hosta", "hostb")
    async with dialling(a, world.plan()):
        await until(lambda: a.incidents, "for the report")
        monkeypatch.undo()
        b = make_link("hostb", "hosta")
        async with receiving(world, b):
            await until(lambda: a.lanes and b.lanes, "for the link")
    assert reasons(a)[0].startswith("internal error: TypeError")


async def test_peer_that_never_answers_hello(world: World) -> None:
    a = make_link("hosta", "hostb", timeouts=Timeouts(answer=0.2))
    async with dialling(a, world.plan()), listening(world) as accept:
        peer = await TlsPeer.connect(await accept(), world.b, dialing=False)
        await peer.read_to_end()
        assert [type(frame) for frame in peer.frames] == [Hello], (
            "GOAWAY would end the session if the peer had answered"
        )
        assert peer.ending == "reset", "unsent frames must not arrive later"
        await until(lambda: a.incidents, "for the failure")
        assert a.members.offer is None
    assert reasons(a)[0] == "hostb accepted the connection but sent no reply"


async def test_refusal_of_hello_is_reported(world: World) -> None:
    a = make_link("hosta", "hostb")
    async with dialling(a, world.plan()), listening(world) as accept:
        peer = await TlsPeer.connect(await accept(), world.b, dialing=False)
        await peer.read_until(lambda: peer.frames)
        await peer.send(encode(GoAway(Code.VERSION, "too old")))
        await until(lambda: a.incidents, "for the refusal")
    assert reasons(a)[0] == "hostb closed the link: too old"


class Immediate(Backoff):
    """Records its calls, and returns short pauses."""

    asked: list[tuple[bool, float]]

    def pause(self, now: float, *, resuming: bool) -> float:
        self.asked.append((resuming, super().pause(now, resuming=resuming)))
        return 0


async def test_link_that_is_lost_repeatedly_is_dialled_slowly(world: World) -> None:
    a = make_link("hosta", "hostb")
    dialer = Dialer(world.plan(), a)
    dialer._backoff = backoff = Immediate(lambda: 1)
    backoff.asked = []
    async with running(dialer, a), listening(world) as accept:
        for _ in range(6):
            peer = await TlsPeer.connect(await accept(), world.b, dialing=False)
            await peer.read_until(partial(has_spoken, peer))
            [offer] = peer.all(Hello)
            assert isinstance(offer, Hello)
            answer = Welcome(1, offer.features, offer.session, b"B" * 16, offer.limits)
            await peer.send(encode(answer) + encode(GoAway(Code.INTERNAL, "not today")))
    assert all(not resuming for resuming, _ in backoff.asked)
    pauses = [pause for _, pause in backoff.asked]
    assert pauses[:5] == [0, *(FIRST_PAUSE * factor for factor in (1, 2, 4, 8))]


async def test_a_lane_that_is_cut_is_replaced_without_a_pause(world: World) -> None:
    a, b = make_link("hosta", "hostb"), make_link("hostb", "hosta")
    dialer = Dialer(world.plan(), a)
    dialer._backoff = backoff = Immediate(lambda: 1)
    backoff.asked = []
    async with receiving(world, b), running(dialer, a):
        for lost in range(1, 6):
            await until(partial(have_lane, lost, a, b), "for the lane")
            lane = b.lanes[lost]
            assert isinstance(lane, BaseLane)
            reset(socket.socket(fileno=os.dup(lane._sock.fileno())))
            lane._lost("the test broke it")
        await until(lambda: a.resumes == b.resumes == 5, "for the link to resume")
    assert backoff.asked == [(False, 0), *[(True, 0)] * 5]


async def test_resume_has_increasing_epochs(world: World) -> None:
    a = make_link("hosta", "hostb")
    async with dialling(a, world.plan()), listening(world) as accept:
        peer = await TlsPeer.connect(await accept(), world.b, dialing=False)
        await peer.read_until(lambda: peer.frames)
        [offer] = peer.all(Hello)
        assert isinstance(offer, Hello)
        await peer.send(encode(Welcome(1, offer.features, offer.session, b"B" * 16, offer.limits)))
        await until(lambda: a.lanes, "for the link")
        reset(peer.sock)
        epochs = []
        for _ in range(3):
            again = await TlsPeer.connect(await accept(), world.b, dialing=False)
            await again.read_until(partial(has_spoken, again))
            [claim] = again.all(Resume)
            assert isinstance(claim, Resume)
            assert claim.session == offer.session
            assert claim.replaces == 1
            epochs.append(claim.epoch)
            reset(again.sock)
        assert epochs == [2, 3, 4]


async def test_name_that_does_not_resolve(world: World) -> None:
    a = make_link("hosta", "hostb")
    async with dialling(a, world.plan("no-such-host.invalid")):
        await until(lambda: a.incidents, "for the failure")
    where = f"hostb at no-such-host.invalid port {world.port}: "
    assert reasons(a)[0].startswith(where)
    assert "name" in reasons(a)[0].removeprefix(where).lower() or reasons(a)[0].endswith(late(5))


async def test_peer_that_does_not_answer_at_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "TIMEOUT", 0.2)
    a = make_link("hosta", "hostb")
    with socket.socket() as full, socket.socket() as filler, socket.socket() as second:
        full.bind(("127.0.0.1", world.port))
        full.listen(0)  # accepts one connection; the kernel drops further SYNs
        for sock in (filler, second):
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        async with dialling(a, world.plan()):
            await until(lambda: a.incidents, "for the failure")
    assert reasons(a)[0] == f"hostb at 127.0.0.1 port {world.port}: {late(0.2)}"


@pytest.mark.parametrize(
    ("source", "from_there"),
    [("127.0.0.9", True), ("0.0.0.0", False), ("::1", False), ("192.0.2.1", False), (None, False)],
)
async def test_dials_from_the_configured_address_if_it_can_reach_the_peer(
    world: World, source: str | None, from_there: bool
) -> None:
    a = make_link("hosta", "hostb")
    plan = DialPlan("127.0.0.1", world.port, lambda: world.a, None, source)
    async with dialling(a, plan), listening(world) as accept:
        sock = await accept()
        assert sock.getpeername()[0] == ("127.0.0.9" if from_there else "127.0.0.1")


async def test_missing_local_address_is_reported(world: World) -> None:
    a = make_link("hosta", "hostb")
    plan = DialPlan("192.0.2.2", world.port, lambda: world.a, None, "192.0.2.1")  # for documentation only
    async with dialling(a, plan):
        await until(lambda: a.incidents, "for the failure")
    assert reasons(a) == [f"hostb at 192.0.2.2 port {world.port}: Cannot assign requested address"]


@pytest.mark.parametrize(
    ("source", "destination", "reaches"),
    [
        ("192.0.2.1", "198.51.100.7", True),
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "fe80::2%eth0", True),
        ("2001:db8::1", "198.51.100.7", False),
        ("192.0.2.1", "2001:db8::2", False),
        ("::", "2001:db8::2", False),
        ("127.0.0.1", "198.51.100.7", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("fe80::1%eth0", "2001:db8::2", False),
    ],
)
def test_which_local_address_can_reach_which(source: str, destination: str, reaches: bool) -> None:
    assert module._can_reach(source, destination) is reaches


async def test_doubt_about_this_host_is_reported_with_a_refusal_only(world: World) -> None:
    """For example, that its own certificate names several hosts."""
    a = make_link("hosta", "hostb")
    plan = replace(world.plan(), doubt=lambda: "the certificate names everybody")
    b = make_link("hostb", "hostc")
    async with dialling(a, plan):
        await until(lambda: a.incidents, "for the first attempt")
        reception = LaneAcceptor("127.0.0.1", world.port, lambda: world.b, None, {"hostc": b})
        await until(lambda: len(a.incidents) > 1, "for the refusal")
        await reception.close()
    assert reasons(a)[0] == refused(world.port)
    assert reasons(a)[1].endswith("; the certificate names everybody")


async def test_missing_interface_is_reported(world: World) -> None:
    a = make_link("hosta", "hostb")
    async with dialling(a, world.plan("fe80::7%none9")):
        await until(lambda: a.incidents, "for the failure")
    where = f"hostb at fe80::7%none9 port {world.port}"
    assert reasons(a) == [f"{where}: this host has no network interface none9"]


@pytest.mark.root
async def test_a_peer_on_the_same_link_is_reached_through_its_interface(
    world: World, link_local: str
) -> None:
    a, b = make_link("hosta", "hostb"), make_link("hostb", "hosta")
    reception = LaneAcceptor(link_local, world.port, lambda: world.b, None, {"hosta": b})
    plan = DialPlan(link_local, world.port, lambda: world.a, None, link_local)
    try:
        async with dialling(a, plan):
            await until(lambda: a.state is b.state is LinkState.UP, "for the link")
            assert next(iter(b.lanes.values())).remote.startswith(f"[{link_local}]:")
    finally:
        b.end(Code.NONE, "the test is over")
        await reception.close()


async def test_missing_congestion_control_is_reported(world: World) -> None:
    a = make_link("hosta", "hostb")
    plan = DialPlan("127.0.0.1", world.port, lambda: world.a, "no-such-control")
    async with dialling(a, plan):
        await until(lambda: a.incidents, "for the failure")
    assert f"hostb at 127.0.0.1 port {world.port}: No such file or directory" in reasons(a)[0]


async def test_renewed_certificates_are_used_for_the_next_lane(world: World, tmp: Path) -> None:
    a, b = make_link("hosta", "hostb"), make_link("hostb", "hosta")
    present = [world.other]
    plan = DialPlan("127.0.0.1", world.port, lambda: present[0], None)
    async with receiving(world, b) as reception, dialling(a, plan):
        await until(lambda: reception.rejected, "for the refusal")
        present[0] = world.a
        await until(lambda: a.lanes and b.lanes, "for the link")


async def test_peer_that_connected_first_is_not_dialled_twice(world: World) -> None:
    """Its session comes up during our own handshake: our lane is dropped silently."""
    a = make_link("hosta", "hostb")
    async with dialling(a, world.plan()), listening(world) as accept:
        sock = await accept()
        faster, slower = a, make_link("hostb", "hosta")
        lane = join(slower, faster)
        await until(lambda: a.lanes, "for the peer's session")
        peer = await TlsPeer.connect(sock, world.b, dialing=False)
        await peer.read_to_end()
        assert peer.frames == []
        assert a.state is LinkState.UP
        slower.end(Code.NONE, "")
        assert lane.gone.is_set()


async def test_lane_that_is_up_is_replaced(world: World) -> None:
    a, b = make_link("hosta", "hostb"), make_link("hostb", "hosta")
    async with receiving(world, b), dialling(a, world.plan()):
        await until(lambda: have_lane(1, a, b), "for the link")
        await Dialer(world.plan(), a).replace(1)
        await until(lambda: have_lane(2, a, b), "for the other lane")
        assert (a.resumes, b.resumes) == (0, 0)


async def test_lost_lane_is_not_replaced(world: World) -> None:
    a, b = make_link("hosta", "hostb"), make_link("hostb", "hosta")
    async with receiving(world, b), dialling(a, world.plan()):
        await until(lambda: have_lane(1, a, b), "for the link")
        await Dialer(world.plan(), a).replace(7)
        await until(lambda: b.incidents, "for the connection to end")
        assert have_lane(1, a, b)
        assert "lane rejected" in [incident.kind for incident in b.incidents]
