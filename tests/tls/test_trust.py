"""Whole chains: the same rules in a handshake, for our own files, and when a chain is verified again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support.signers import Signer, day
from tunnel.errors import CertificateError
from tunnel.tls.contexts import client_context, load, server_context
from tunnel.tls.openssl import CertificateRejectedError, TlsConnection, WantRead
from tunnel.tls.rejections import Verify
from tunnel.tls.trust import Chain, Trust

ROOT = Signer("root")
INTER = Signer("inter", ROOT)
LOWER = Signer("lower", INTER)
OTHER = Signer("other")
LEAF = INTER.host("hostb")
DEEP = LOWER.host("hostb")
DIRECT = ROOT.host("hostb")
EXPIRED_INTER = Signer("expired", ROOT, until=-1)
SERVER_INTER = Signer("server", ROOT, usages=[ExtendedKeyUsageOID.SERVER_AUTH])
CLIENT_INTER = Signer("client", ROOT, usages=[ExtendedKeyUsageOID.CLIENT_AUTH])
OWN = OTHER.host("hosta")
OTHER_CRL = OTHER.crl()


@dataclass(frozen=True)
class Case:
    """The chain of a host, what the other side trusts, and the error: OpenSSL's code and depth."""

    chain: Sequence[Signer]
    ca: Sequence[Signer] = (ROOT,)
    crls: Sequence[bytes] = ()
    code: int = 0
    depth: int = 0


CASES = {
    "a chain": Case([LEAF, INTER]),
    "two intermediates": Case([DEEP, LOWER, INTER]),
    "an intermediate as the authority": Case([LEAF, INTER], ca=[INTER]),
    "an intermediate as the authority, and not sent": Case([LEAF], ca=[INTER]),
    "an intermediate that only the other side has": Case([LEAF], ca=[INTER, ROOT]),
    "a missing intermediate": Case([LEAF], code=Verify.UNABLE_TO_GET_ISSUER_CERT_LOCALLY),
    "a missing root": Case(
        [DEEP, LOWER], code=Verify.UNABLE_TO_GET_ISSUER_CERT_LOCALLY, depth=1
    ),
    "an expired host": Case([INTER.host("hostb", until=-1), INTER], code=Verify.CERT_HAS_EXPIRED),
    "an expired intermediate": Case(
        [EXPIRED_INTER.host("hostb"), EXPIRED_INTER], code=Verify.CERT_HAS_EXPIRED, depth=1
    ),
    "an expired authority that is an intermediate": Case(
        [EXPIRED_INTER.host("hostb")], ca=[EXPIRED_INTER, ROOT], code=Verify.CERT_HAS_EXPIRED, depth=1
    ),
    "a host as an authority": Case(
        [Signer("x", DIRECT, ca=False, dns=["hostb"]), DIRECT], code=Verify.INVALID_CA, depth=1
    ),
    "a CRL of the host's issuer alone": Case([LEAF, INTER], crls=[INTER.crl()]),
    "CRLs of all issuers": Case([DEEP, LOWER, INTER], crls=[LOWER.crl(), INTER.crl(), ROOT.crl()]),
    "a CRL of the only authority": Case([DIRECT], crls=[ROOT.crl()]),
    "no CRL of the host's issuer": Case([LEAF, INTER], crls=[ROOT.crl()], code=Verify.UNABLE_TO_GET_CRL),
    "a revoked host": Case([LEAF, INTER], crls=[INTER.crl(LEAF)], code=Verify.CERT_REVOKED),
    "a revoked host below the only authority": Case(
        [DIRECT], crls=[ROOT.crl(DIRECT)], code=Verify.CERT_REVOKED
    ),
    "a revoked intermediate": Case(
        [LEAF, INTER], crls=[INTER.crl(), ROOT.crl(INTER)], code=Verify.CERT_REVOKED, depth=1
    ),
    "a revoked upper intermediate": Case(
        [DEEP, LOWER, INTER], crls=[LOWER.crl(), ROOT.crl(INTER)], code=Verify.CERT_REVOKED, depth=2
    ),
    "a revoked intermediate among the authorities": Case(
        [LEAF, INTER], ca=[INTER, ROOT], crls=[INTER.crl(), ROOT.crl(INTER)],
        code=Verify.CERT_REVOKED, depth=1,
    ),
    "a revoked intermediate as the only authority": Case(
        [LEAF, INTER], ca=[INTER], crls=[INTER.crl(), ROOT.crl(INTER)],
        code=Verify.UNABLE_TO_GET_ISSUER_CERT_LOCALLY, depth=1,
    ),
    "an intermediate as the only authority, with its issuer's CRL": Case(
        [LEAF, INTER], ca=[INTER], crls=[INTER.crl(), ROOT.crl()]
    ),
    "an intermediate and its issuer, with both CRLs": Case(
        [LEAF, INTER], ca=[INTER, ROOT], crls=[INTER.crl(), ROOT.crl()]
    ),
    "an expired CRL of the host's issuer": Case(
        [LEAF, INTER], crls=[INTER.crl(until=-1)], code=Verify.CRL_HAS_EXPIRED
    ),
    "an older valid CRL and a newer expired one": Case(
        [DIRECT], crls=[ROOT.crl(since=-9), ROOT.crl(until=-1)], code=Verify.CRL_HAS_EXPIRED
    ),
    "an older CRL after the one that revokes": Case(
        [DIRECT], crls=[ROOT.crl(DIRECT), ROOT.crl(since=-9, until=20)], code=Verify.CERT_REVOKED
    ),
    "an expired CRL of the intermediate's issuer": Case(
        [LEAF, INTER], crls=[INTER.crl(), ROOT.crl(until=-1)], code=Verify.CRL_HAS_EXPIRED, depth=1
    ),
    "an expired CRL and its successor": Case([DIRECT], crls=[ROOT.crl(until=-1), ROOT.crl()]),
    "a CRL with an invalid signature": Case(
        [LEAF, INTER], crls=[INTER.crl(), Signer("root").crl(INTER)],
        code=Verify.CRL_SIGNATURE_FAILURE, depth=1,
    ),
}  # fmt: skip
GOOD = {name: case for name, case in CASES.items() if not case.code}
BAD = {name: case for name, case in CASES.items() if case.code}


def trusted(case: Case, directory: Path) -> Trust:
    """Return the trust of the verifying host, whose own certificate does not matter."""
    crls = [*case.crls, OTHER_CRL] if case.crls else []
    return Trust.read(OWN.files(directory / "judge", ca=[*case.ca, OTHER], crls=crls))


def shake(case: Case, directory: Path, *, dialing: bool) -> Chain:
    """Let the host of ``case`` dial, or be dialed; return its chain as the other side verified it."""
    shower, *behind = case.chain
    shown = shower.files(directory / "host", *behind, ca=[OTHER])
    judge = trusted(case, directory).files
    ours = TlsConnection((server_context if dialing else client_context)(judge), dialing=not dialing)
    theirs = TlsConnection((client_context if dialing else server_context)(shown), dialing=dialing)
    meet(ours, theirs)
    return ours.verified_chain


def meet(one: TlsConnection, other: TlsConnection) -> None:
    """Do a handshake in memory, as far as possible."""
    for end, far in ((one, other), (other, one)) * 3:
        with suppress(WantRead):
            end.handshake()
        if flight := end.flight():
            far.feed(flight)


def by_depth(signers: Sequence[Signer]) -> Chain:
    return tuple(each.certificate for each in signers)


@pytest.mark.parametrize("dialing", [False, True], ids=["accepting", "dialing"])
@pytest.mark.parametrize("case", GOOD.values(), ids=GOOD)
def test_a_good_chain_is_accepted(case: Case, dialing: bool, tmp: Path) -> None:
    chain = shake(case, tmp, dialing=dialing)
    assert chain[0] == case.chain[0].certificate
    assert chain[-1] in trusted(case, tmp).authorities
    trusted(case, tmp).judge(chain, day(0), dialing=dialing)


@pytest.mark.parametrize("dialing", [False, True], ids=["accepting", "dialing"])
@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_a_bad_chain_is_refused_with_code_and_depth(case: Case, dialing: bool, tmp: Path) -> None:
    with pytest.raises(CertificateRejectedError) as caught:
        shake(case, tmp, dialing=dialing)
    assert (caught.value.code, caught.value.depth) == (case.code, case.depth)


@pytest.mark.parametrize("case", [each for each in BAD.values() if each.crls], ids=[
    name for name, each in BAD.items() if each.crls
])  # fmt: skip
def test_a_verified_chain_is_verified_again_by_the_same_rules(case: Case, tmp: Path) -> None:
    """As after a new CRL: the chain was first verified without one."""
    before = shake(Case(case.chain, case.ca), tmp, dialing=True)
    with pytest.raises(CertificateRejectedError) as caught:
        trusted(case, tmp).judge(before, day(0), dialing=True)
    assert caught.value.code == case.code or caught.value.code == Verify.UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    assert caught.value.certificate in before


def test_a_chain_expires_with_its_first_certificate(tmp: Path) -> None:
    inter = Signer("inter", ROOT, until=3)
    case = Case([inter.host("hostb"), inter])
    chain, trust = shake(case, tmp, dialing=True), trusted(case, tmp)
    trust.judge(chain, day(2.9), dialing=True)
    for moment, code in ((day(3), Verify.CERT_HAS_EXPIRED), (day(-3), Verify.CERT_NOT_YET_VALID)):
        with pytest.raises(CertificateRejectedError) as caught:
            trust.judge(chain, moment, dialing=True)
        assert caught.value.code == code
    assert caught.value.certificate in chain


def test_a_crl_expires(tmp: Path) -> None:
    case = Case([DIRECT], crls=[ROOT.crl(until=3)])
    chain, trust = shake(case, tmp, dialing=True), trusted(case, tmp)
    trust.judge(chain, day(2.9), dialing=True)
    with pytest.raises(CertificateRejectedError) as caught:
        trust.judge(chain, day(3), dialing=True)
    assert (caught.value.code, caught.value.depth) == (Verify.CRL_HAS_EXPIRED, 0)


def test_a_removed_authority_is_no_longer_trusted(tmp: Path) -> None:
    chain = shake(Case([LEAF, INTER]), tmp, dialing=True)
    with pytest.raises(CertificateRejectedError):
        trusted(Case([LEAF, INTER], ca=[Signer("successor")]), tmp).judge(chain, day(0), dialing=True)


@pytest.mark.parametrize(
    ("inter", "dialing"), [(SERVER_INTER, True), (CLIENT_INTER, False)], ids=["server only", "client only"]
)
def test_an_intermediate_for_one_role_is_named(inter: Signer, dialing: bool, tmp: Path) -> None:
    host = inter.host("hostb")
    with pytest.raises(CertificateRejectedError) as caught:
        shake(Case([host, inter]), tmp, dialing=dialing)
    assert (caught.value.code, caught.value.depth) == (Verify.INVALID_PURPOSE, 1)
    chain = by_depth([host, inter, ROOT])
    trust = trusted(Case([host, inter]), tmp)
    trust.judge(chain, day(0), dialing=not dialing)
    with pytest.raises(CertificateRejectedError) as again:
        trust.judge(chain, day(0), dialing=dialing)
    assert (again.value.code, again.value.depth) == (Verify.INVALID_PURPOSE, 1)


# Our own files.


def test_the_invalid_certificate_of_a_chain_is_named(tmp: Path) -> None:
    files = EXPIRED_INTER.host("hosta").files(tmp, EXPIRED_INTER, ca=[ROOT])
    with pytest.raises(CertificateError, match=r"^the intermediate CN=expired in .*host\.pem has expired"):
        load(files)


def test_our_own_revoked_intermediate_is_named(tmp: Path) -> None:
    files = LEAF.files(tmp, INTER, ca=[ROOT], crls=[INTER.crl(), ROOT.crl(INTER)])
    with pytest.raises(
        CertificateError,
        match=r"the intermediate CN=inter in .*host\.pem is revoked by the CRL of CN=root in .*crl",
    ):
        load(files)


def test_expiries_are_sorted_and_named(tmp: Path) -> None:
    inter = Signer("inter", ROOT, until=9)
    files = inter.host("hosta").files(tmp, inter, ca=[ROOT], crls=[inter.crl(until=4), ROOT.crl(until=20)])
    found = [(each.key, each.what, each.ends) for each in load(files).expiries(day(0))]
    assert found == [
        ("tls.crl", f"the CRL of CN=inter in {files.crl}", day(4)),
        ("tls.cert", f"the intermediate CN=inter in {files.cert}", day(9)),
        ("tls.crl", f"the CRL of CN=root in {files.crl}", day(20)),
        ("tls.cert", f"the certificate {files.cert}", day(300)),
        ("tls.ca", f"the authority CN=root in {files.ca}", day(300)),
    ]


def test_of_several_crls_of_one_issuer_the_last_counts(tmp: Path) -> None:
    files = DIRECT.files(tmp, ca=[ROOT], crls=[ROOT.crl(until=4), ROOT.crl(until=9)])
    assert [each.ends for each in load(files).expiries(day(0)) if each.key == "tls.crl"] == [day(9)]


def test_an_expired_authority_with_a_successor_is_not_warned_of(tmp: Path) -> None:
    old = Signer("old", until=-1)
    contexts = load(DIRECT.files(tmp, ca=[old, ROOT]))
    assert {each.ends for each in contexts.expiries(day(0))} == {day(300)}
    assert min(each.ends for each in contexts.expiries(day(-1.5))) == day(-1)


def test_an_intermediate_without_a_crl_is_reported(tmp: Path) -> None:
    contexts = load(LEAF.files(tmp, INTER, ca=[ROOT], crls=[INTER.crl()]))
    words = "it has no CRL of CN=root: revocation of the intermediate CN=inter would go undetected"
    assert list(contexts.trust.gaps(contexts.accepted, contexts.dialed)) == [("tls.crl", words)]
    whole = load(LEAF.files(tmp, INTER, ca=[ROOT], crls=[INTER.crl(), ROOT.crl()]))
    assert list(whole.trust.gaps(whole.accepted)) == []
    without = load(LEAF.files(tmp, INTER, ca=[ROOT]))
    assert list(without.trust.gaps(without.accepted)) == []


def test_contexts_can_get_another_trust(tmp: Path) -> None:
    """With the certificates that are loaded, not those on disk."""
    contexts = load(DIRECT.files(tmp, ca=[ROOT]))
    strict = Trust.read(DIRECT.files(tmp / "new", ca=[ROOT], crls=[ROOT.crl(DIRECT)]))
    peer = TlsConnection(contexts.client, dialing=True)
    own = TlsConnection(contexts.believing(strict).server, dialing=False)
    with pytest.raises(CertificateRejectedError) as caught:
        meet(peer, own)
    assert caught.value.code == Verify.CERT_REVOKED
