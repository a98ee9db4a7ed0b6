"""NOTICE: text for the other host's log."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from tests.support.links import Pair
from tests.support.waiting import turns
from tunnel.relay.link import LinkState
from tunnel.wire.codec import encode
from tunnel.wire.codes import FEATURES, Code, Feature
from tunnel.wire.frames import Notice


async def test_record_is_in_both_logs_and_no_incident() -> None:
    with capture_logs() as said:
        pair = await Pair().up()
        pair.a.record("migration of web1 from hosta to hostb begins")
        await turns()
    records = [each for each in said if "migration of web1" in str(each.get("reason"))]
    assert [(each["peer"], each["event"], each["log_level"]) for each in records] == [
        ("hostb", "for the record", "info"),
        ("hosta", "told by the peer", "info"),
    ]
    assert records[1]["reason"] == "hosta reports: migration of web1 from hosta to hostb begins"
    assert not pair.a.incidents
    assert not pair.b.incidents
    pair.close()


async def test_notice_of_a_problem_is_an_incident(pair: Pair) -> None:
    pair.lane.receive(encode(Notice(Code.COLLISION, "two of you")))
    [told] = pair.a.incidents
    assert (told.kind, told.reason) == ("told by the peer", "hostb reports: two of you")


async def test_nothing_is_sent_without_the_feature_or_a_lane(pair: Pair) -> None:
    pair.a.members.features = FEATURES ^ Feature.NOTICE
    before = bytes(pair.lane.said)
    pair.a.record("the peer is of an older version")
    await turns()
    assert pair.lane.said == before
    pair.a.end(Code.NONE, "")
    pair.a.record("only in our own log")


@pytest.mark.parametrize("code", [Code.NONE, Code.COLLISION])
async def test_a_notice_needs_its_feature(pair: Pair, code: Code) -> None:
    pair.a.members.features = FEATURES ^ Feature.NOTICE
    pair.lane.receive(encode(Notice(code, "look here")))
    await turns()
    assert pair.a.state is LinkState.DOWN
