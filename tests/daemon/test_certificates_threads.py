"""Certificates in use, judged while lanes of other workers come and go in their threads."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.links import Pair
from tests.support.signers import Signer, day
from tunnel.daemon.certificates import Certificates
from tunnel.tls.contexts import load
from tunnel.tls.verified_chains import VerifiedChains

ROOT = Signer("root")


class Restless:
    """In the place of a lane: whenever it is asked for its proof, another one has come."""

    def __init__(self, lanes: dict[int, Any]) -> None:
        self._lanes = lanes

    @property
    def proof(self) -> None:
        self._lanes[1000 + len(self._lanes)] = Restless(self._lanes)


async def test_lanes_may_come_while_they_are_looked_at(tmp: Path) -> None:
    pair = await Pair().up()
    crls = (ROOT.crl(until=90),)
    contexts = load(ROOT.host("hosta", until=100).files(tmp / "etc", ca=(ROOT,), crls=crls))
    theirs = (ROOT.host("hostb", until=100).certificate, ROOT.certificate)
    lanes: dict[int, Any] = dict(pair.a.lanes)  # of its own: the link sends on its lanes meanwhile
    for lane in pair.a.lanes.values():
        lane.proof = VerifiedChains("hostb", contexts.trust, theirs, contexts.dialed, True)
    lanes[1000] = Restless(lanes)
    link: Any = SimpleNamespace(lanes=lanes, rotation=pair.a.rotation, post=pair.a.post, end=pair.a.end)
    certificates = Certificates(contexts, "hosta", [link], clock=lambda: day(0))
    ROOT.host("hosta", until=200).files(tmp / "etc", ca=(ROOT,), crls=crls)
    for _ in range(2):  # new files have settled by then
        await certificates.look()
    assert list(pair.a.rotation._due) == list(pair.a.lanes)
    assert len(lanes) > len(pair.a.lanes) + 1  # some came while they were looked at
    assert certificates.facts()["problem"] is None
    pair.close()
