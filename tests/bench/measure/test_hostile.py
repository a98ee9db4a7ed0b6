"""A hostile peer floods a daemon with each kind, repeatedly, and the links of other peers stay up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemons import TwoHosts, until
from tests.support.streams import Target
from tunnel.bench.measure import hostile
from tunnel.bench.measure.hostile import Kind, PeerAccess, Tally
from tunnel.bench.measure.raw_peer import RawPeer
from tunnel.bench.measure.rig import Rig, Source
from tunnel.tls.contexts import TlsFiles


class Site:
    """Two linked daemons, and a third host that is a peer of the second one."""

    def __init__(self, hosts: TwoHosts, target: Target) -> None:
        self.hosts = hosts
        self.third = hosts.another("hostc", "127.0.0.5")
        hosts.b.knows(self.third)
        hosts.b.egress["hostc"] += [target.address]
        hosts.a.leads_to(hosts.b, target.address)
        self.target = target.address
        hosts.start()

    @property
    def files(self) -> TlsFiles:
        return self.third.files


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Target(backlog=1024) as target, TwoHosts(tmp_path_factory.mktemp("hostile")) as hosts:
        yield Site(hosts, target)


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_floods_without_end(site: Site, tmp: Path, kind: Kind) -> None:
    hosts, files = site.hosts, site.files
    command = Rig.module(
        "hostile", kind, hosts.b.address, "--source=127.0.0.5", f"--target={site.target}",
        f"--ca={files.ca}", f"--cert={files.cert}", f"--key={files.key}",
    )  # fmt: skip
    with Rig(tmp) as rig:
        peer = Source(rig.start("hostile", command, talks=True))

        def frames() -> float:
            peer.say({})
            return peer.hear(20)["frames"]

        until(lambda: frames() > 0, f"for {kind} to be sent")
        first = frames()
        if kind is not Kind.SPARSE:
            until(lambda: frames() > first, f"for more of {kind} to be sent")
        peer.close()
    for one, other in hosts.both_ways:
        assert one.link(other)["resumes"] == 0
        assert one.link(other)["state"] == "up"


def test_it_reconnects_after_it_was_disconnected(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a flood does that violates the protocol in the end."""

    class Enough(Exception):  # noqa: N818
        pass

    def rude(peer: RawPeer, _: str, tally: Tally) -> None:
        peer.send_raw(bytes(20))
        peer.goodbye()
        if tally.lanes == 3:
            raise Enough
        raise ConnectionError

    monkeypatch.setitem(hostile._FLOODS, Kind.PING, rude)
    tally = Tally()
    with pytest.raises(Enough):
        hostile.run(Kind.PING, PeerAccess(site.hosts.b.address, site.files, site.target), tally)
    assert tally.lanes == 3


def test_each_greeting_is_of_a_new_daemon() -> None:
    one, other = hostile.greeting(), hostile.greeting()
    assert one.session != other.session
    assert one.instance != other.instance
