"""The chains of a lane are verified again, with the same error text at either end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.signers import Signer, day
from tunnel.tls.rejections import at
from tunnel.tls.trust import Trust
from tunnel.tls.verified_chains import VerifiedChains

ROOT = Signer("root")
A = ROOT.host("hosta", until=20)
B = ROOT.host("hostb", until=10)


@pytest.fixture
def trust(tmp: Path) -> Trust:
    return Trust.read(A.files(tmp / "before", ca=[ROOT]))


def proof(trust: Trust, *, at_a: bool = True) -> VerifiedChains:
    """Host a dialed b."""
    a, b = ((each.certificate, ROOT.certificate) for each in (A, B))
    return VerifiedChains("hostb", trust, b, a, True) if at_a else VerifiedChains("hosta", trust, a, b, False)


def test_chains_expire_with_the_first_certificate(trust: Trust) -> None:
    assert proof(trust).ends == day(10)
    assert proof(trust).objection(trust, day(9.9), "hosta") == ""


@pytest.mark.parametrize("at_a", [True, False])
def test_both_ends_name_an_expired_certificate(trust: Trust, at_a: bool) -> None:
    words = proof(trust, at_a=at_a).objection(trust, day(10), "hosta" if at_a else "hostb")
    assert words.startswith("hostb's certificate has expired: issue a new one")


@pytest.mark.parametrize("revoked", [A, B])
@pytest.mark.parametrize("at_a", [True, False])
def test_both_ends_name_a_revoked_certificate(trust: Trust, tmp: Path, revoked: Signer, at_a: bool) -> None:
    strict = Trust.read(A.files(tmp / "after", ca=[ROOT], crls=[ROOT.crl(revoked)]))
    words = proof(trust, at_a=at_a).objection(strict, day(0), "hosta" if at_a else "hostb")
    whose = "hosta" if revoked is A else "hostb"
    crl = f"the CRL of CN=root in {strict.files.crl} (this update {at(day(-1))})"
    assert words == f"{whose}'s certificate is revoked by {crl}"


def test_expiries_of_the_peer_do_not_include_our_own_authority(trust: Trust) -> None:
    inter = Signer("inter", ROOT, until=7)
    leaf = inter.host("hostb", until=5)
    chain = tuple(each.certificate for each in (leaf, inter, ROOT))
    found = VerifiedChains("hostb", trust, chain, chain, True).expiries()
    assert [(each.what, each.ends) for each in found] == [
        ("hostb's certificate", day(5)),
        ("hostb's intermediate certificate CN=inter", day(7)),
    ]
