"""A duplicate host, with the same name and certificate, does not disturb the first; all hosts log it."""

from __future__ import annotations

import pytest

from tests.support.daemons import Host, TwoHosts
from tests.support.streams import Target, connect, exchange


@pytest.fixture
def copy(hosts: TwoHosts) -> Host:
    """A duplicate of host a: same name and certificate, another address. Not started yet."""
    clone = Host("hosta", "127.0.0.6", hosts.a.files, hosts.directory / "clone")
    clone.knows(hosts.b)
    clone.leads_to(hosts.b, "tcp:127.0.0.1:9")
    return clone


@pytest.mark.parametrize("dials", ["the host", "its peer"])
def test_streams_of_the_host_continue_and_the_duplicate_is_refused(
    hosts: TwoHosts, copy: Host, target: Target, dials: str
) -> None:
    one, other = (hosts.a, hosts.b) if dials == "the host" else (hosts.b, hosts.a)
    entry = one.leads_to(other, target.address)
    hosts.start()
    try:
        with connect(entry) as caller, target.accept() as called:
            copy.start()
            copy.wait_log("another daemon named hosta has this link, from 127.0.0.2:")
            hosts.b.wait_log("two daemons are named hosta: the one at 127.0.0.2:.* the one at 127.0.0.6 ")
            hosts.a.wait_log("hostb reports: another daemon named hosta .* from 127.0.0.6 ")
            exchange(caller, called)
        for host in (copy, hosts.b):
            peer = hosts.b if host is copy else hosts.a
            assert any("daemon named" in each or "daemons are named" in each for each in host.reasons(peer))
        assert any("hostb reports: " in each for each in hosts.a.reasons(hosts.b))
        assert copy.link(hosts.b)["state"] == "down"
        assert hosts.b.link(hosts.a)["state"] == "up"
        assert hosts.a.link(hosts.b)["resumes"] == 0
        assert "link down" not in hosts.b.log
    finally:
        copy.kill()


def test_a_killed_host_links_again_although_a_duplicate_keeps_trying(hosts: TwoHosts, copy: Host) -> None:
    hosts.a.leads_to(hosts.b, "tcp:127.0.0.1:9")
    hosts.start()
    try:
        copy.start()
        hosts.b.wait_log("two daemons are named hosta")
        hosts.a.kill()
        hosts.a.start()
        hosts.wait_up()
        assert copy.link(hosts.b)["state"] == "down"
        [lane] = hosts.b.link(hosts.a)["lanes"]
        assert lane["remote"].startswith("127.0.0.2:")
    finally:
        copy.kill()
