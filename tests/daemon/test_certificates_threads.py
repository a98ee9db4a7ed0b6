"""Certificates in use, verified while other workers add and remove lanes on their threads."""

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
    """A fake lane that adds another lane whenever its ``proof`` is read."""

    def __init__(self, lanes: dict[int, Any]) -> None:
        self._lanes = lanes

    @property
    def proof(self) -> None:
        self._lanes[1000 + len(self._lanes)] = Restless(self._lanes)


async def test_lanes_may_be_added_during_a_check(tmp: Path) -> None:
    pair = await Pair().up()
    crls = (ROOT.crl(until=90),)
    contexts = load(ROOT.host("hosta", until=100).files(tmp / "etc", ca=(ROOT,), crls=crls))
    theirs = (ROOT.host("hostb", until=100).certificate, ROOT.certificate)
    lanes: dict[int, Any] = dict(pair.a.lanes)  # a copy: the link sends on its lanes meanwhile
    for lane in pair.a.lanes.values():
        lane.proof = VerifiedChains("hostb", contexts.trust, theirs, contexts.dialed, True)
    lanes[1000] = Restless(lanes)
    link: Any = SimpleNamespace(lanes=lanes, rotation=pair.a.rotation, post=pair.a.post, end=pair.a.end)
    certificates = Certificates(contexts, "hosta", [link], clock=lambda: day(0))
    ROOT.host("hosta", until=200).files(tmp / "etc", ca=(ROOT,), crls=crls)
    for _ in range(2):  # new files count as stable then
        await certificates.look()
    assert list(pair.a.rotation._due) == list(pair.a.lanes)
    assert len(lanes) > len(pair.a.lanes) + 1  # some were added during the check
    assert certificates.facts()["problem"] is None
    pair.close()
