"""Probes: answered in order and once, bounded, and only where both sides support them."""

from __future__ import annotations

import pytest

from tests.support.sessions import TARGET, Remote, fault, make, said
from tests.support.wire import Network
from tunnel.errors import MisuseError, ProtocolError, RefusedError
from tunnel.wire import probes as module
from tunnel.wire.codes import Code, Feature
from tunnel.wire.control_channel import CROWDED
from tunnel.wire.events import TargetJudged, TargetProbed
from tunnel.wire.frames import Frame, Limits, Probe, Verdict
from tunnel.wire.session import Settings

OTHER = "unix:/run/qemu/web1.sock"
SETTINGS = Settings()
FORBIDDEN = Verdict(Code.TARGET_FORBIDDEN, "not allowed")


def test_a_probe_and_its_verdict() -> None:
    asking, asked = make(), make(initiator=False)
    asking.probes.ask(TARGET)
    asking.probes.ask(OTHER)
    assert said(asking) == [Probe(TARGET), Probe(OTHER)]
    assert Remote(asked).says(Probe(TARGET), Probe(OTHER)) == [TargetProbed(TARGET), TargetProbed(OTHER)]
    asked.probes.judge(Code.NONE, "")
    asked.probes.judge(FORBIDDEN.code, FORBIDDEN.reason)
    assert said(asked)[:2] == [Verdict(Code.NONE, ""), FORBIDDEN]
    answers = Remote(asking).says(Verdict(Code.NONE, ""), FORBIDDEN)
    assert answers == [TargetJudged(Code.NONE, ""), TargetJudged(FORBIDDEN.code, FORBIDDEN.reason)]


def test_a_probe_opens_nothing() -> None:
    asked = make(initiator=False)
    Remote(asked).says(Probe(TARGET))
    assert not asked._streams
    assert asked._registry.budget.used == 0


@pytest.mark.parametrize("noticed", [True, False])
def test_probes_and_verdicts_on_a_lost_lane_are_sent_again(noticed: bool) -> None:
    network = Network(SETTINGS, SETTINGS)
    for host in network.hosts:
        for _ in range(5):
            host.questions.ask(host.session)
        host.transmit(1)
    network.carry(1, from_initiator=True, most=70)  # some whole, one in part
    network.cut(1, noticed=noticed)
    network.settle()
    network.check_finished()


def test_no_probe_to_a_peer_without_the_feature() -> None:
    session = make(features=Feature.RESUME)
    assert not session.probes.known
    with pytest.raises(MisuseError, match="does not support PROBE"):
        session.probes.ask(TARGET)


@pytest.mark.parametrize("frame", [Probe(TARGET), FORBIDDEN], ids=lambda frame: type(frame).__name__)
def test_neither_frame_without_the_feature(frame: Frame) -> None:
    assert fault(Remote(make(features=Feature.RESUME)).says, frame) is Code.PROTOCOL


def test_an_unsolicited_verdict() -> None:
    session = make()
    peer = Remote(session)
    assert fault(peer.says, FORBIDDEN) is Code.PROTOCOL
    session.probes.ask(TARGET)
    peer.says(FORBIDDEN)
    assert fault(peer.says, FORBIDDEN) is Code.PROTOCOL


def test_an_unsolicited_verdict_of_ours() -> None:
    session = make()
    Remote(session).says(Probe(TARGET))
    session.probes.judge(Code.NONE, "")
    with pytest.raises(MisuseError):
        session.probes.judge(Code.NONE, "")


def test_probes_wait_for_the_peers_control_window() -> None:
    session = make(peer=Limits(256, 4))
    for _ in range(10):
        session.probes.ask(TARGET)
    assert said(session) == [Probe(TARGET)] * 4


def test_unanswered_probes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PROBES", 3)
    session = make()
    for _ in range(3):
        session.probes.ask(TARGET)
    with pytest.raises(RefusedError, match="the peer answers probes too slowly"):
        session.probes.ask(TARGET)
    Remote(session).says(FORBIDDEN)
    session.probes.ask(TARGET)


def test_a_probe_that_cannot_be_encoded_is_not_counted() -> None:
    session = make()
    with pytest.raises(UnicodeEncodeError):
        session.probes.ask("unix:/run/\udcff.sock")
    assert fault(Remote(session).says, FORBIDDEN) is Code.PROTOCOL


def test_probes_without_acknowledging_our_answers() -> None:
    """Each VERDICT has to be kept until it is acknowledged."""
    session = make(peer=Limits(256, 16), initiator=False)
    peer = Remote(session)
    with pytest.raises(ProtocolError, match="does not acknowledge answers") as caught:  # noqa: PT012  raised after some
        for _ in range(2 * CROWDED):
            peer.says(Probe(TARGET))
            session.probes.judge(Code.NONE, "")
            session.control()
    assert caught.value.code is Code.FLOW_CONTROL
    assert len(session._control._waiting) + len(session._control._kept) <= CROWDED
