"""A certificate with the names of several hosts authenticates none of them, and both sides report it."""

from __future__ import annotations

from tests.support.daemons import TwoHosts, until
from tunnel.tls.tls_files import TlsFiles


def test_one_certificate_for_three_hosts_is_reported_on_both_sides(hosts: TwoHosts) -> None:
    c = hosts.another("hostc", "127.0.0.4")
    pair = hosts.pki.authority.issue("shared", dns=["hosta", "hostb", "hostc"])
    for host in (hosts.a, hosts.b, c):
        host.files = TlsFiles(host.files.ca, pair.cert, pair.key)
    hosts.a.knows(c)
    hosts.b.knows(c)
    hosts.a.leads_to(hosts.b, "tcp:127.0.0.1:49152")
    for host in (hosts.b, hosts.a):
        host.start()
        host.wait_serving()
    until(lambda: "also names hostb, hostc" in " ".join(hosts.a.reasons(hosts.b)), "for a to report it")
    [reason] = hosts.b.reasons(hosts.a)
    assert reason == (
        "the peer's certificate names more than one configured peer: hosta, hostc; "
        "issue one certificate per host, with its own name only"
    )
