"""Certificates in use: judged again while lanes live by them, renewed from disk, and warned of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs
from structlog.typing import EventDict

from tests.support.links import Pair
from tests.support.signers import Signer, day
from tests.support.waiting import until
from tunnel.certs.authority import key_pem
from tunnel.daemon import certificates as module
from tunnel.daemon.certificates import Certificates
from tunnel.errors import CertificateError
from tunnel.relay.link import Link, LinkState
from tunnel.tls.contexts import TlsContexts, load
from tunnel.tls.rejections import at
from tunnel.tls.tls_files import TlsFiles
from tunnel.tls.verified_chains import VerifiedChains
from tunnel.wire.codes import Code

ROOT = Signer("root")
A = ROOT.host("hosta", until=100)
B = ROOT.host("hostb", until=50)


class Clock:
    """Says what a test wants."""

    def __init__(self) -> None:
        self.moment = day(0)

    def __call__(self) -> datetime:
        return self.moment


class World:
    """Host a with its files on disk and a link with host b, whose lane both sides have proven."""

    def __init__(self, directory: Path, pair: Pair) -> None:
        self.directory = directory
        self.pair = pair
        self.clock = Clock()
        self.write()
        self.certificates = self.start(load(self.files))
        self.prove()

    @property
    def link(self) -> Link:
        return self.pair.a

    def write(
        self,
        host: Signer = A,
        *behind: Signer,
        ca: Sequence[Signer] = (ROOT,),
        crls: Sequence[bytes] = (ROOT.crl(until=90),),
    ) -> TlsFiles:
        """Put files on disk in place of those that are there."""
        self.files = host.files(self.directory, *behind, ca=ca, crls=crls)
        return self.files

    def start(self, contexts: TlsContexts) -> Certificates:
        return Certificates(contexts, "hosta", [self.link], clock=self.clock)

    def prove(self) -> None:
        """Let the link's lanes be made with what is in use now."""
        contexts = self.certificates.current
        theirs = (B.certificate, ROOT.certificate)
        for lane in self.link.lanes.values():
            lane.proof = VerifiedChains("hostb", contexts.trust, theirs, contexts.dialed, True)

    async def look(self) -> None:
        """Look twice, as time does: new files have settled by then."""
        await self.certificates.look()
        await self.certificates.look()

    @property
    def outdated(self) -> list[int]:
        """The lanes that are to be replaced."""
        return list(self.link.rotation._due)

    @property
    def reasons(self) -> list[str]:
        return [incident.reason for incident in self.link.incidents]


@pytest.fixture
async def world(tmp: Path) -> AsyncIterator[World]:
    pair = await Pair().up()
    yield World(tmp / "etc", pair)
    pair.close()


# A link ends with what it lives by.


def revoked_by(world: World) -> str:
    return f"is revoked by the CRL of CN=root in {world.files.crl} (this update {at(day(-1))})"


async def test_nothing_ends_before_its_time(world: World) -> None:
    world.clock.moment = day(49.9)
    await world.look()
    assert world.link.state is LinkState.UP
    assert world.reasons == []


async def test_an_expired_peer_loses_its_link_and_both_sides_say_why(world: World) -> None:
    world.clock.moment = day(50)
    await world.certificates.look()
    assert world.link.state is LinkState.DOWN
    assert world.reasons[0].startswith("hostb's certificate has expired: issue a new one")
    await until(lambda: world.pair.b.session is None, "for the peer to hear of it")
    told = world.pair.b.incidents[-1]
    assert told.reason.startswith("hosta ended the link: hostb's certificate has expired")


async def test_our_own_expiry_ends_the_link_and_makes_no_more_lanes(world: World) -> None:
    for lane in world.link.lanes.values():
        assert lane.proof is not None
        lane.proof = VerifiedChains("hostb", lane.proof.trust, lane.proof.ours, lane.proof.ours, True)
    world.write(crls=[ROOT.crl(until=200)])
    await world.look()
    world.clock.moment = day(100)
    await world.certificates.look()
    assert "certificate has expired: issue a new one" in world.reasons[0]
    assert "has expired" in world.certificates.facts()["problem"], "also where nobody makes a lane"
    with pytest.raises(CertificateError, match=r"host\.pem has expired: issue a new one"):
        world.certificates.for_next_lane()


async def test_a_renewed_certificate_makes_lanes_again(world: World) -> None:
    world.write(crls=[ROOT.crl(until=200)])
    world.clock.moment = day(100)
    with pytest.raises(CertificateError):
        world.certificates.for_next_lane()
    renewed = ROOT.host("hosta", until=200)
    world.write(renewed, crls=[ROOT.crl(until=200)])
    assert world.certificates.for_next_lane().accepted[0] == renewed.certificate
    assert world.certificates.facts()["problem"] is None


async def test_an_intermediate_ends_the_link_as_well(world: World) -> None:
    inter = Signer("inter", ROOT, until=30)
    chain = (inter.host("hostb").certificate, inter.certificate, ROOT.certificate)
    for lane in world.link.lanes.values():
        lane.proof = VerifiedChains("hostb", world.certificates.current.trust, chain, chain, True)
    world.write(crls=[ROOT.crl(until=90), inter.crl(until=90)])
    await world.look()
    assert world.link.state is LinkState.UP
    world.clock.moment = day(30)
    await world.certificates.look()
    assert world.reasons[0].startswith("hostb's intermediate certificate CN=inter has expired")


async def test_a_revoked_peer_loses_its_link(world: World) -> None:
    world.write(crls=[ROOT.crl(B, until=90)])
    await world.look()
    assert world.reasons == [f"hostb's certificate {revoked_by(world)}"]
    await until(lambda: world.pair.b.session is None, "for the peer to hear of it")


async def test_a_reload_judges_at_once(world: World) -> None:
    world.write(crls=[ROOT.crl(B, until=90)])
    await world.certificates.look(asked=True)
    assert world.reasons == [f"hostb's certificate {revoked_by(world)}"]


async def test_the_code_says_that_it_is_about_certificates(world: World) -> None:
    world.write(crls=[ROOT.crl(B, until=90)])
    with capture_logs() as logs:
        world.link.log = structlog.get_logger()
        await world.certificates.look(asked=True)
    assert Code.CREDENTIALS.name in {event.get("code") for event in logs}


async def test_revocation_of_this_host_ends_its_links_and_makes_no_more_lanes(world: World) -> None:
    world.write(crls=[ROOT.crl(A, until=90)])
    await world.look()
    assert world.reasons == [f"hosta's certificate {revoked_by(world)}"]
    with pytest.raises(CertificateError, match="is revoked by"):
        world.certificates.for_next_lane()


async def test_a_crl_that_ended_judges_nobody_well(world: World) -> None:
    world.write(crls=[ROOT.crl(until=5)])
    await world.look()
    assert world.link.state is LinkState.UP
    world.clock.moment = day(5)
    await world.certificates.look()
    fault = f"the CRL of CN=root in {world.files.crl} has expired: install the current one"
    dates = f"next update {at(day(5))}, it is {at(day(5))} here"
    assert world.reasons == [f"hostb's certificate cannot be judged: {fault} ({dates})"]


async def test_an_authority_that_was_removed_ends_the_link(world: World) -> None:
    successor = Signer("successor")
    world.write(successor.host("hosta"), ca=[successor], crls=[successor.crl(until=90)])
    await world.look()
    assert "hostb's certificate is not signed by an authority in" in world.reasons[0]


async def test_a_lane_that_was_under_way_meanwhile_is_judged_too(world: World) -> None:
    """Its handshake was judged by the old CRL, and it became the link's after everybody was judged."""
    before = world.certificates.current.trust
    lanes = dict(world.link.lanes)
    world.link.lanes.clear()
    world.write(crls=[ROOT.crl(B, until=90)])
    await world.look()
    world.link.lanes.update(lanes)
    assert all(lane.proof is not None and lane.proof.trust is before for lane in lanes.values())
    await world.certificates.look()
    assert world.reasons == [f"hostb's certificate {revoked_by(world)}"]


# Files.


async def test_unchanged_files_are_not_read_again(world: World) -> None:
    before = world.certificates.current
    await world.look()
    assert world.certificates.for_next_lane() is before


async def test_the_next_lane_uses_the_files_as_they_are(world: World) -> None:
    renewed = ROOT.host("hosta")
    world.write(renewed)
    contexts = world.certificates.for_next_lane()
    assert contexts.accepted[0] == contexts.dialed[0] == renewed.certificate
    await world.look()
    assert world.outdated == [1], "it is to be replaced"
    assert world.link.state is LinkState.UP, "what it was made with is valid still"


async def test_a_new_crl_is_no_new_certificate(world: World) -> None:
    world.write(crls=[ROOT.crl(until=91)])
    await world.look()
    assert world.outdated == []


async def test_a_lane_that_was_under_way_at_a_renewal_is_replaced_too(world: World) -> None:
    """It would live until the old certificate ends, and the link would end with it."""
    lanes = dict(world.link.lanes)
    world.link.lanes.clear()
    world.write(ROOT.host("hosta"))
    await world.look()
    assert world.outdated == []
    world.link.lanes.update(lanes)
    await world.certificates.look()
    assert world.outdated == [1]


async def test_a_clock_that_was_far_ahead_for_a_moment_leaves_nothing_behind(world: World) -> None:
    world.clock.moment = day(9999)
    with pytest.raises(CertificateError, match="has expired"):
        world.certificates.for_next_lane()
    await world.certificates.look()
    world.clock.moment = day(0)
    assert world.certificates.for_next_lane() is world.certificates.current
    with capture_logs() as logs:
        await world.certificates.look()
        world.clock.moment = day(89)
        await world.certificates.look()
    assert len(warned(logs)) == 2, "and warns as it would have"


@pytest.mark.parametrize("patience", [0.0, 3600.0])
async def test_files_that_could_not_be_read_for_a_moment_are_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    """Nothing of them changes when a disk, a descriptor or a certificate's first second is there at last."""
    monkeypatch.setattr(module, "TRY_AGAIN", patience)
    renewed = ROOT.host("hosta")
    world.write(renewed)
    real = module._read
    monkeypatch.setattr(module, "_read", lambda current: module._Found(None, None, "too many open files"))
    await world.look()
    assert world.certificates.facts()["problem"] == "too many open files"
    monkeypatch.setattr(module, "_read", real)
    await world.look()
    assert (world.certificates.current.accepted[0] == renewed.certificate) is (patience == 0.0)


def spoil(files: TlsFiles, name: str) -> None:
    """Damage one file, or take it away."""
    path: Path = getattr(files, name)
    if name == "cert":
        path.unlink()
    elif name == "key":
        path.write_bytes(key_pem(B.key))
    else:
        path.write_text("junk")


@pytest.mark.parametrize("name", ["ca", "cert", "key", "crl"])
async def test_files_that_cannot_be_used_leave_the_old_and_are_told_once(world: World, name: str) -> None:
    before = world.certificates.current.accepted
    spoil(world.files, name)
    with capture_logs() as logs:
        for _ in range(4):
            await world.look()
            assert world.certificates.for_next_lane().accepted == before
    [told] = complaints(logs)
    assert told["reason"] == world.certificates.facts()["problem"]
    assert world.link.state is LinkState.UP
    world.write()
    await world.look()
    assert world.certificates.facts()["problem"] is None


async def test_files_that_are_being_written_are_not_complained_of(world: World) -> None:
    """Certificate and key come one after the other: only what stays so is a mistake."""
    with capture_logs() as logs:
        world.files.key.write_bytes(key_pem(B.key))
        await world.certificates.look()
        world.certificates.for_next_lane()
        world.write()
        await world.look()
    assert complaints(logs) == []


async def test_a_crl_counts_beside_a_damaged_certificate(world: World) -> None:
    world.write(crls=[ROOT.crl(B, until=90)])
    world.files.cert.write_text("junk")
    await world.look()
    assert world.reasons == [f"hostb's certificate {revoked_by(world)}"]


@pytest.mark.parametrize("damaged", [False, True], ids=["alone", "beside a damaged certificate"])
async def test_an_older_crl_brings_nobody_back(world: World, damaged: bool) -> None:
    world.write(crls=[ROOT.crl(B, until=90)])
    await world.look()
    world.write(crls=[ROOT.crl(until=90, since=-2)])
    if damaged:
        world.files.cert.write_text("junk")
    await world.look()
    assert damaged or "is older (this update " in str(world.certificates.facts()["problem"])
    [crl] = world.certificates.current.trust.crls
    assert crl.get_revoked_certificate_by_serial_number(B.certificate.serial_number)


async def test_a_crl_of_an_authority_that_stays_does_not_go(world: World) -> None:
    """Its intermediates would count as not revoked."""
    other = Signer("other")
    world.write(ca=[ROOT, other], crls=[ROOT.crl(until=90), other.crl(until=90)])
    await world.look()
    assert world.certificates.facts()["problem"] is None
    world.write(ca=[ROOT, other])
    await world.look()
    assert "has no CRL of CN=other any more" in str(world.certificates.facts()["problem"])
    assert len(world.certificates.current.trust.crls) == 2
    world.write()
    await world.look()
    assert world.certificates.facts()["problem"] is None, "it went with its authority"
    assert len(world.certificates.current.trust.crls) == 1


async def test_an_authority_that_is_not_ours_yet_waits_for_its_certificate(world: World) -> None:
    """The files of a new authority are copied one by one; by the first alone this host would be nobody."""
    successor = Signer("successor")
    world.files.ca.write_bytes(successor.files(world.directory / "new", ca=[successor]).ca.read_bytes())
    await world.look()
    assert world.link.state is LinkState.UP
    assert "not signed by an authority" in str(world.certificates.facts()["problem"])


async def test_a_certificate_of_another_host_is_not_used(world: World) -> None:
    world.write(ROOT.host("hostz"))
    await world.look()
    assert "hosta is not a DNS name of" in str(world.certificates.facts()["problem"])
    assert world.certificates.current.names == ("hosta",)


async def test_a_reload_says_what_it_did(world: World) -> None:
    with capture_logs() as logs:
        await world.certificates.look(asked=True)
    assert [event["event"] for event in logs] == ["certificates and CRLs were read again"]
    spoil(world.files, "key")
    with capture_logs() as logs:
        await world.certificates.look(asked=True)
        await world.certificates.look(asked=True)
    assert len(complaints(logs)) == 2, "whoever asks is answered each time"


def complaints(logs: Sequence[EventDict]) -> list[EventDict]:
    return [event for event in logs if event["event"].startswith("new certificate files cannot be used")]


# Warnings.


def warned(logs: Sequence[EventDict]) -> list[str]:
    return [event["reason"] for event in logs if event["event"] == "certificates end"]


async def test_ends_are_warned_of_30_7_and_1_days_before(world: World) -> None:
    world.write(crls=[ROOT.crl(until=1000)])
    await world.look()
    said: list[tuple[int, str]] = []
    with capture_logs() as logs:
        for left in range(40, -1, -1):
            world.clock.moment = day(100) - timedelta(days=left, minutes=1)
            before = len(logs)
            await world.look()
            said += [(left, words) for words in warned(logs[before:])]
    assert [left for left, _ in said] == [29, 6, 0]
    assert all(words.startswith(f"the certificate {world.files.cert} is valid until") for _, words in said)


async def test_what_ends_soon_is_warned_of_at_the_start(world: World) -> None:
    world.write(ROOT.host("hosta", until=3))
    starting = world.start(load(world.files))
    with capture_logs() as logs:
        await starting.look()
        await starting.look()
    assert len(warned(logs)) == 1
    assert starting.facts()["warnings"] == warned(logs)
    assert starting.facts()["days_left"] in {2, 3}


async def test_status_warns_of_a_peer_as_well(world: World) -> None:
    assert world.certificates.facts()["warnings"] == []
    world.clock.moment = day(44)
    with capture_logs() as logs:
        await world.look()
    assert warned(logs) == [], "the peer's own log does"
    [warning] = world.certificates.facts()["warnings"]
    assert warning.startswith("hostb's certificate is valid until")


async def test_a_renewal_is_no_warning_however_short_it_is(world: World) -> None:
    """A CRL that is issued every day for a week is always about to end."""
    world.write(crls=[ROOT.crl(until=6)])
    with capture_logs() as logs:
        await world.look()
        assert len(warned(logs)) == 1
        world.write(crls=[ROOT.crl(until=6.5)])
        await world.look()
        assert len(warned(logs)) == 1
        world.write(crls=[ROOT.crl(until=0.5)])
        await world.look()
    assert len(warned(logs)) == 2, "one that ends sooner than the last is worth a word"


async def test_a_reload_is_a_look_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnel.daemon.certificates.LOOK", 3600)
    task = asyncio.create_task(world.certificates.run())
    world.write(crls=[ROOT.crl(B, until=90)])
    world.certificates.reload()
    await until(lambda: world.reasons, "for the end of the link")
    task.cancel()


async def test_what_a_lane_has_taken_meanwhile_is_not_undone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files change again while a thread reads them, and a lane is made with the newer ones."""
    older, newer = ROOT.host("hosta"), ROOT.host("hosta")
    world.write(older)

    def slowly(current: TlsContexts) -> object:
        found = real(current)
        monkeypatch.setattr(module, "_read", real)
        world.write(newer)
        world.certificates.for_next_lane()
        return found

    real = module._read
    monkeypatch.setattr(module, "_read", slowly)
    await world.certificates.look(asked=True)
    assert world.certificates.current.accepted[0] == newer.certificate


async def test_a_fault_of_ours_ends_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*, asked: bool) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(world.certificates, "look", fail)
    monkeypatch.setattr("tunnel.daemon.certificates.LOOK", 0)
    with capture_logs() as logs:
        task = asyncio.create_task(world.certificates.run())
        await until(lambda: len(logs) > 2, "for more than one look")
        assert not task.done()
        task.cancel()
    assert logs[0]["event"] == "certificates could not be judged"
