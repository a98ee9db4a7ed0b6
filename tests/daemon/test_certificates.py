"""Certificates in use: verified again during the lifetime of lanes, reloaded from disk, and warned of."""

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
    """A clock that tests set."""

    def __init__(self) -> None:
        self.moment = day(0)

    def __call__(self) -> datetime:
        return self.moment


class World:
    """Host a with its files on disk and a link to host b, with a mutually authenticated lane."""

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
        """Replace the files on disk."""
        self.files = host.files(self.directory, *behind, ca=ca, crls=crls)
        return self.files

    def start(self, contexts: TlsContexts) -> Certificates:
        return Certificates(contexts, "hosta", [self.link], clock=self.clock)

    def prove(self) -> None:
        """Set the chains of the link's lanes to the certificates in use."""
        contexts = self.certificates.current
        theirs = (B.certificate, ROOT.certificate)
        for lane in self.link.lanes.values():
            lane.proof = VerifiedChains("hostb", contexts.trust, theirs, contexts.dialed, True)

    async def look(self) -> None:
        """Check twice: new files count as stable then."""
        await self.certificates.look()
        await self.certificates.look()

    @property
    def outdated(self) -> list[int]:
        """The lanes whose rotation is pending."""
        return list(self.link.rotation._due)

    @property
    def reasons(self) -> list[str]:
        return [incident.reason for incident in self.link.incidents]


@pytest.fixture
async def world(tmp: Path) -> AsyncIterator[World]:
    pair = await Pair().up()
    yield World(tmp / "etc", pair)
    pair.close()


# A link is closed when its certificates are no longer valid.


def revoked_by(world: World) -> str:
    return f"is revoked by the CRL of CN=root in {world.files.crl} (this update {at(day(-1))})"


async def test_nothing_ends_before_its_time(world: World) -> None:
    world.clock.moment = day(49.9)
    await world.look()
    assert world.link.state is LinkState.UP
    assert world.reasons == []


async def test_expiry_of_the_peer_closes_the_link_with_the_reason_on_both_sides(world: World) -> None:
    world.clock.moment = day(50)
    await world.certificates.look()
    assert world.link.state is LinkState.DOWN
    assert world.reasons[0].startswith("hostb's certificate has expired: issue a new one")
    await until(lambda: world.pair.b.session is None, "for the peer to receive GOAWAY")
    told = world.pair.b.incidents[-1]
    assert told.reason.startswith("hosta closed the link: hostb's certificate has expired")


async def test_our_own_expiry_closes_the_link_and_allows_no_more_lanes(world: World) -> None:
    for lane in world.link.lanes.values():
        assert lane.proof is not None
        lane.proof = VerifiedChains("hostb", lane.proof.trust, lane.proof.ours, lane.proof.ours, True)
    world.write(crls=[ROOT.crl(until=200)])
    await world.look()
    world.clock.moment = day(100)
    await world.certificates.look()
    assert "certificate has expired: issue a new one" in world.reasons[0]
    assert "has expired" in (world.certificates.facts()["problem"] or ""), "also when no lane is opened"
    with pytest.raises(CertificateError, match=r"host\.pem has expired: issue a new one"):
        world.certificates.for_next_lane()


async def test_a_renewed_certificate_allows_lanes_again(world: World) -> None:
    world.write(crls=[ROOT.crl(until=200)])
    world.clock.moment = day(100)
    with pytest.raises(CertificateError):
        world.certificates.for_next_lane()
    renewed = ROOT.host("hosta", until=200)
    world.write(renewed, crls=[ROOT.crl(until=200)])
    assert world.certificates.for_next_lane().accepted[0] == renewed.certificate
    assert world.certificates.facts()["problem"] is None


async def test_expiry_of_an_intermediate_closes_the_link_as_well(world: World) -> None:
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
    await until(lambda: world.pair.b.session is None, "for the peer to receive GOAWAY")


async def test_a_reload_verifies_immediately(world: World) -> None:
    world.write(crls=[ROOT.crl(B, until=90)])
    await world.certificates.look(asked=True)
    assert world.reasons == [f"hostb's certificate {revoked_by(world)}"]


async def test_the_error_code_is_credentials(world: World) -> None:
    world.write(crls=[ROOT.crl(B, until=90)])
    with capture_logs() as logs:
        world.link.log = structlog.get_logger()
        await world.certificates.look(asked=True)
    assert Code.CREDENTIALS.name in {event.get("code") for event in logs}


async def test_revocation_of_this_host_closes_its_links_and_allows_no_more_lanes(world: World) -> None:
    world.write(crls=[ROOT.crl(A, until=90)])
    await world.look()
    assert world.reasons == [f"hosta's certificate {revoked_by(world)}"]
    with pytest.raises(CertificateError, match="is revoked by"):
        world.certificates.for_next_lane()


async def test_an_expired_crl_closes_the_link(world: World) -> None:
    world.write(crls=[ROOT.crl(until=5)])
    await world.look()
    assert world.link.state is LinkState.UP
    world.clock.moment = day(5)
    await world.certificates.look()
    fault = f"the CRL of CN=root in {world.files.crl} has expired: install the current one"
    dates = f"next update {at(day(5))}, it is {at(day(5))} here"
    assert world.reasons == [f"hostb's certificate cannot be verified: {fault} ({dates})"]


async def test_removal_of_a_ca_closes_the_link(world: World) -> None:
    successor = Signer("successor")
    world.write(successor.host("hosta"), ca=[successor], crls=[successor.crl(until=90)])
    await world.look()
    assert "hostb's certificate is not signed by an authority in" in world.reasons[0]


async def test_a_lane_that_was_in_its_handshake_is_verified_too(world: World) -> None:
    """It was verified against the old CRL, and joined the link after the other lanes were verified again."""
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


async def test_the_next_lane_uses_the_current_files(world: World) -> None:
    renewed = ROOT.host("hosta")
    world.write(renewed)
    contexts = world.certificates.for_next_lane()
    assert contexts.accepted[0] == contexts.dialed[0] == renewed.certificate
    await world.look()
    assert world.outdated == [1], "it is replaced"
    assert world.link.state is LinkState.UP, "its certificate is still valid"


async def test_a_new_crl_is_no_new_certificate(world: World) -> None:
    world.write(crls=[ROOT.crl(until=91)])
    await world.look()
    assert world.outdated == []


async def test_a_lane_that_was_in_its_handshake_at_a_renewal_is_replaced_too(world: World) -> None:
    """Otherwise it would keep the old certificate, whose expiry would close the link."""
    lanes = dict(world.link.lanes)
    world.link.lanes.clear()
    world.write(ROOT.host("hosta"))
    await world.look()
    assert world.outdated == []
    world.link.lanes.update(lanes)
    await world.certificates.look()
    assert world.outdated == [1]


async def test_a_clock_that_was_temporarily_far_ahead_has_no_lasting_effect(world: World) -> None:
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
    assert len(warned(logs)) == 2, "and warnings are logged as usual"


@pytest.mark.parametrize("patience", [0.0, 3600.0])
async def test_files_that_were_temporarily_unreadable_are_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    """The files do not change when a disk or a descriptor becomes available, or a certificate valid."""
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
    """Damage or remove one file."""
    path: Path = getattr(files, name)
    if name == "cert":
        path.unlink()
    elif name == "key":
        path.write_bytes(key_pem(B.key))
    else:
        path.write_text("junk")


@pytest.mark.parametrize("name", ["ca", "cert", "key", "crl"])
async def test_unusable_files_leave_the_old_ones_in_use_and_are_logged_once(world: World, name: str) -> None:
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


async def test_files_that_are_being_written_are_not_reported(world: World) -> None:
    """Certificate and key are written one after the other: only a lasting mismatch is a problem."""
    with capture_logs() as logs:
        world.files.key.write_bytes(key_pem(B.key))
        await world.certificates.look()
        world.certificates.for_next_lane()
        world.write()
        await world.look()
    assert complaints(logs) == []


async def test_a_crl_is_used_despite_a_damaged_certificate(world: World) -> None:
    world.write(crls=[ROOT.crl(B, until=90)])
    world.files.cert.write_text("junk")
    await world.look()
    assert world.reasons == [f"hostb's certificate {revoked_by(world)}"]


@pytest.mark.parametrize("damaged", [False, True], ids=["alone", "with a damaged certificate"])
async def test_an_older_crl_reinstates_no_certificate(world: World, damaged: bool) -> None:
    world.write(crls=[ROOT.crl(B, until=90)])
    await world.look()
    world.write(crls=[ROOT.crl(until=90, since=-2)])
    if damaged:
        world.files.cert.write_text("junk")
    await world.look()
    assert damaged or "is older (this update " in str(world.certificates.facts()["problem"])
    [crl] = world.certificates.current.trust.crls
    assert crl.get_revoked_certificate_by_serial_number(B.certificate.serial_number)


async def test_the_crl_of_a_remaining_ca_cannot_be_removed(world: World) -> None:
    """Otherwise its intermediates would count as not revoked."""
    other = Signer("other")
    world.write(ca=[ROOT, other], crls=[ROOT.crl(until=90), other.crl(until=90)])
    await world.look()
    assert world.certificates.facts()["problem"] is None
    world.write(ca=[ROOT, other])
    await world.look()
    assert "no longer has a CRL of CN=other" in str(world.certificates.facts()["problem"])
    assert len(world.certificates.current.trust.crls) == 2
    world.write()
    await world.look()
    assert world.certificates.facts()["problem"] is None, "it went with its authority"
    assert len(world.certificates.current.trust.crls) == 1


async def test_a_new_ca_is_not_used_before_its_certificate_is_there(world: World) -> None:
    """The files of a new CA are copied one by one; the first one alone would reject this host."""
    successor = Signer("successor")
    world.files.ca.write_bytes(successor.files(world.directory / "new", ca=[successor]).ca.read_bytes())
    await world.look()
    assert world.link.state is LinkState.UP
    assert "not signed by an authority" in str(world.certificates.facts()["problem"])


async def test_a_certificate_of_another_host_is_not_used(world: World) -> None:
    world.write(ROOT.host("hostz"))
    await world.look()
    assert "hosta is not a DNS name in" in str(world.certificates.facts()["problem"])
    assert world.certificates.current.names == ("hosta",)


async def test_a_reload_logs_its_result(world: World) -> None:
    with capture_logs() as logs:
        await world.certificates.look(asked=True)
    assert [event["event"] for event in logs] == ["certificates and CRLs were read again"]
    spoil(world.files, "key")
    with capture_logs() as logs:
        await world.certificates.look(asked=True)
        await world.certificates.look(asked=True)
    assert len(complaints(logs)) == 2, "each reload is answered"


def complaints(logs: Sequence[EventDict]) -> list[EventDict]:
    return [event for event in logs if event["event"].startswith("new certificate files cannot be used")]


# Warnings.


def warned(logs: Sequence[EventDict]) -> list[str]:
    return [event["reason"] for event in logs if event["event"] == "certificates end"]


async def test_expiry_is_warned_of_30_7_and_1_days_before(world: World) -> None:
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


async def test_near_expiry_is_warned_of_at_the_start(world: World) -> None:
    world.write(ROOT.host("hosta", until=3))
    starting = world.start(load(world.files))
    with capture_logs() as logs:
        await starting.look()
        await starting.look()
    assert len(warned(logs)) == 1
    assert starting.facts()["warnings"] == warned(logs)
    assert starting.facts()["days_left"] in {2, 3}


async def test_status_warns_of_peer_certificates_as_well(world: World) -> None:
    assert world.certificates.facts()["warnings"] == []
    world.clock.moment = day(44)
    with capture_logs() as logs:
        await world.look()
    assert warned(logs) == [], "the peer's own log has the warning"
    [warning] = world.certificates.facts()["warnings"]
    assert warning.startswith("hostb's certificate is valid until")


async def test_a_renewal_causes_no_warning_however_short_its_validity(world: World) -> None:
    """A CRL that is issued every day for a week is always about to expire."""
    world.write(crls=[ROOT.crl(until=6)])
    with capture_logs() as logs:
        await world.look()
        assert len(warned(logs)) == 1
        world.write(crls=[ROOT.crl(until=6.5)])
        await world.look()
        assert len(warned(logs)) == 1
        world.write(crls=[ROOT.crl(until=0.5)])
        await world.look()
    assert len(warned(logs)) == 2, "one that expires sooner than the previous one is reported"


async def test_a_reload_triggers_a_check_immediately(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnel.daemon.certificates.LOOK", 3600)
    task = asyncio.create_task(world.certificates.run())
    world.write(crls=[ROOT.crl(B, until=90)])
    world.certificates.reload()
    await until(lambda: world.reasons, "for the link to close")
    task.cancel()


async def test_files_loaded_for_a_lane_meanwhile_are_not_replaced_by_older_ones(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files change again while a thread reads them, and a lane is opened with the newer ones."""
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


async def test_an_internal_error_ends_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*, asked: bool) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(world.certificates, "look", fail)
    monkeypatch.setattr("tunnel.daemon.certificates.LOOK", 0)
    with capture_logs() as logs:
        task = asyncio.create_task(world.certificates.run())
        await until(lambda: len(logs) > 2, "for more than one check")
        assert not task.done()
        task.cancel()
    assert logs[0]["event"] == "certificates could not be judged"
