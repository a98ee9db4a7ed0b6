"""Target checks at a peer: each gets its own answer, and nothing is dialled."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.links import TARGET, Pair, join, make_link, requests_of
from tests.support.waiting import until
from tunnel.errors import UnreachableError
from tunnel.relay.link import Link
from tunnel.relay.target_check import TargetCheck, TargetChecks, TargetVerdict, answer
from tunnel.wire import negotiation
from tunnel.wire.codes import Code, Feature
from tunnel.wire.events import TargetJudged

OTHER = "tcp:127.0.0.1:22"


def soon() -> float:
    return asyncio.get_running_loop().time() + 10


async def ask(link: Link, *targets: str) -> list[TargetCheck]:
    return await asyncio.gather(*(link.probe(target, soon()) for target in targets))


async def test_each_target_gets_its_own_answer(pair: Pair) -> None:
    for asking in (pair.a, pair.b):
        admitted, refused, again = await ask(asking, TARGET, OTHER, TARGET)
        assert admitted == again == TargetCheck(TARGET, TargetVerdict.ADMITTED, "NONE", "")
        assert refused == TargetCheck(
            OTHER, TargetVerdict.REFUSED, "TARGET_FORBIDDEN", f"{OTHER} is not on the allow list"
        )


async def test_nothing_is_dialled_and_no_stream_is_opened(pair: Pair) -> None:
    await ask(pair.a, TARGET, OTHER)
    assert requests_of(pair.b).wanted == []
    for link in (pair.a, pair.b):
        assert link.session is not None
        assert not link.session._streams
        assert link.streams.opened == 0
        assert not link.incidents


async def test_stopping_host_admits_nothing(pair: Pair) -> None:
    pair.b.streams.draining = True
    assert await ask(pair.a, TARGET) == [
        TargetCheck(TARGET, TargetVerdict.REFUSED, "DRAINING", "hostb is stopping")
    ]


async def test_a_peer_of_an_older_version_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negotiation, "FEATURES", Feature.RESUME)
    pair = await Pair().up()
    [found] = await ask(pair.a, TARGET)
    assert found.verdict is TargetVerdict.NOT_ASKED
    pair.close()


async def test_check_survives_the_loss_of_its_lane(pair: Pair) -> None:
    pair.lane.cut()
    await until(lambda: not pair.a.lanes, "for the loss")
    asking = asyncio.create_task(pair.a.probe(OTHER, soon()))
    await until(lambda: pair.a.streams.probing._waiting, "for the question")
    await pair.resume()
    assert (await asking).verdict is TargetVerdict.REFUSED


async def test_pending_check_fails_when_the_link_ends(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair.b.streams.probing, "act", lambda event: None)
    asking = asyncio.create_task(pair.a.probe(TARGET, soon()))
    await until(lambda: pair.a.streams.probing._waiting, "for the question")
    pair.a.end(Code.LINK_LOST, "gone")
    with pytest.raises(UnreachableError, match="the link was lost before the peer answered"):
        await asking


async def test_check_times_out_and_its_late_answer_is_not_mistaken(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(pair.b.streams.probing, "act", lambda event: None)
        with pytest.raises(UnreachableError, match=f"timed out waiting for hostb to check target {OTHER}"):
            await pair.a.probe(OTHER, asyncio.get_running_loop().time() + 0.05)
    assert pair.b.session is not None
    pair.b.session.probes.judge(Code.TARGET_FORBIDDEN, "late")
    assert (await pair.a.probe(TARGET, soon())).verdict is TargetVerdict.ADMITTED


async def test_check_waits_for_the_link() -> None:
    a, b = make_link("hosta", "hostb"), make_link("hostb", "hosta")
    asking = asyncio.create_task(a.probe(TARGET, soon()))
    join(a, b)
    assert (await asking).verdict is TargetVerdict.ADMITTED
    for link in (a, b):
        link.end(Code.NONE, "")


async def test_check_without_a_link_fails() -> None:
    with pytest.raises(UnreachableError, match="no link with hostb"):
        await make_link("hosta", "hostb").probe(TARGET, asyncio.get_running_loop().time())
    with pytest.raises(UnreachableError, match="the link is down"):
        TargetChecks(lambda target: None).ask(TARGET)


@pytest.mark.parametrize(
    ("judged", "verdict"),
    [
        (None, TargetVerdict.NOT_ASKED),
        (TargetJudged(Code.NONE, ""), TargetVerdict.ADMITTED),
        (TargetJudged(Code.PROTOCOL, "a later version's code"), TargetVerdict.REFUSED),
    ],
)
def test_what_a_verdict_means(judged: TargetJudged | None, verdict: TargetVerdict) -> None:
    assert answer(TARGET, judged).verdict is verdict
