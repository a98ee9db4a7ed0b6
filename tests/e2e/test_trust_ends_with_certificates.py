"""A link is closed when its certificates expire or are revoked, and renewed ones need no restart."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.daemons import Host, TwoHosts, is_up, until
from tests.support.streams import PATIENCE, Target, connect, ends_in_reset, exchange
from tunnel.certs.profile import Validity

pytestmark = pytest.mark.timeout(600)

SOON = 8.0
"""Lifetime in seconds of a certificate that expires during a test."""

STARTS = 6
"""On a busy machine, the lifetime as a multiple of the start time of a daemon."""


def issue(hosts: TwoHosts, host: Host, validity: Validity) -> None:
    """Replace the certificate of ``host``."""
    hosts.pki.authority.issue(host.name, validity=validity, force=True)


def owner_and_other(hosts: TwoHosts, name: str) -> tuple[Host, Host]:
    return (hosts.a, hosts.b) if name == "hosta" else (hosts.b, hosts.a)


def start(hosts: TwoHosts, name: str, times: int = 1) -> float:
    """Start both daemons, that of host ``name`` with a short-lived certificate, or ``times`` as long.

    Returns its lifetime in seconds, which depends on the start time of the other daemon.
    """
    owner, other = owner_and_other(hosts, name)
    began = time.monotonic()
    other.start()
    other.wait_serving()
    lasting = times * max(SOON, STARTS * (time.monotonic() - began))
    now = datetime.now(UTC)
    issue(hosts, owner, Validity(now - timedelta(hours=1), now + timedelta(seconds=lasting)))
    owner.start()
    hosts.wait_up()
    return lasting


@pytest.mark.parametrize("name", ["hosta", "hostb"])
def test_expiry_closes_the_link_with_the_reason_on_both_sides(
    hosts: TwoHosts, target: Target, name: str
) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    lasting = start(hosts, name)
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)
        caller.settimeout(lasting + PATIENCE)
        assert ends_in_reset(caller)
        assert ends_in_reset(called)
    for host, peer in hosts.both_ways:
        host.wait_log(f"link down.*{name}'s certificate has expired: issue a new one")
        assert any(f"{name}'s certificate has expired" in reason for reason in host.reasons(peer))
        assert not is_up(host, peer)
    owner, other = owner_and_other(hosts, name)
    assert "has expired" in str(owner.status()["certificate"]["problem"])
    assert owner.status()["certificate"]["days_left"] < 0
    assert other.status()["certificate"]["problem"] is None


@pytest.mark.parametrize("name", ["hosta", "hostb"])
def test_a_certificate_that_is_renewed_in_time_keeps_the_link(
    hosts: TwoHosts, target: Target, name: str
) -> None:
    """Lanes are rotated to the new certificate, by the host that dials or at the request of the other."""
    entry = hosts.a.leads_to(hosts.b, target.address)
    owner, _ = owner_and_other(hosts, name)
    lasting = start(hosts, name, times=2)
    ends = owner.status()["certificate"]["not_after"]
    with connect(entry) as caller, target.accept() as called:
        issue(hosts, owner, Validity.lasting(90))
        owner.wait_log("this host's certificate was renewed")
        until(lambda: owner.status()["certificate"]["not_after"] > ends, "for it to be reported")
        owner.wait_log("lane replaced.*certificates renewed", lasting)
        until(
            lambda: datetime.now(UTC).isoformat() > ends, "for the expiry of the old one", lasting + PATIENCE
        )
        until(lambda: owner.status()["certificate"]["problem"] is None, "for the lanes to be verified")
        exchange(caller, called)
    for host, peer in hosts.both_ways:
        link = host.link(peer)
        assert link["resumes"] == 0
        assert link["rotation"]["rotations"] == len(link["sessions"]), "each had one lane, which was replaced"
        assert "link down" not in host.log


def test_a_certificate_that_is_renewed_too_late_restores_the_link(hosts: TwoHosts, target: Target) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    lasting = start(hosts, "hosta")
    hosts.b.wait_log("link down", lasting + PATIENCE)
    issue(hosts, hosts.a, Validity.lasting(90))
    hosts.a.wait_log("this host's certificate was renewed")
    until(lambda: is_up(hosts.a, hosts.b) and is_up(hosts.b, hosts.a), "for the link to be up again")
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)


@pytest.mark.parametrize("notified", [True, False], ids=["by SIGHUP", "by the file alone"])
def test_revocation_closes_the_link_of_a_peer(hosts: TwoHosts, target: Target, notified: bool) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.b.crl = hosts.pki.revoke(lasting=timedelta(days=60))
    hosts.start()
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)
        hosts.pki.revoke(hosts.a.files, lasting=timedelta(days=60))
        if notified:
            hosts.b.signal(signal.SIGHUP)
        assert ends_in_reset(caller)
        assert ends_in_reset(called)
    words = f"hosta's certificate is revoked by the CRL of .* in {hosts.b.crl}"
    hosts.b.wait_log(f"link down.*{words}")
    hosts.a.wait_log(f"link down.*hostb closed the link: {words}")
    hosts.b.wait_log(r"connection rejected.*is revoked by")
    assert not is_up(hosts.a, hosts.b)


def test_a_damaged_file_leaves_the_old_certificate_in_use(hosts: TwoHosts, target: Target) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.start()
    hosts.a.files.cert.write_text("junk")
    hosts.a.wait_log("new certificate files cannot be used, the old ones stay.*holds no PEM block")
    hosts.b.kill()
    hosts.b.start()
    hosts.wait_up()
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)
    assert "holds no PEM block" in str(hosts.a.status()["certificate"]["problem"])


def test_near_expiry_is_warned_of(hosts: TwoHosts) -> None:
    issue(hosts, hosts.a, Validity.lasting(5))
    hosts.a.leads_to(hosts.b, "tcp:127.0.0.1:49152")
    hosts.start()
    hosts.a.wait_log(r"certificates end.*hosta\.pem is valid until .* 4 days left")
    [warning] = hosts.a.status()["certificate"]["warnings"]
    assert "hosta.pem is valid until" in warning
    [warning] = hosts.b.status()["certificate"]["warnings"]
    assert "hosta's certificate is valid until" in warning
    assert "certificates end" not in hosts.b.log
