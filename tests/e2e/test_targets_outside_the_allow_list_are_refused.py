"""The destination decides which targets are allowed, and its refusal is reported at the source."""

from __future__ import annotations

import json
import subprocess

from tests.support.daemons import TwoHosts
from tests.support.streams import Target, connect, exchange, turned_away
from tunnel.proof.local_daemon import MTUNNEL


def test_refusal_reaches_the_source(hosts: TwoHosts, target: Target) -> None:
    with Target() as forbidden:
        entry = hosts.a.leads_to(hosts.b, target.address)
        other = hosts.a.leads_to(hosts.b, forbidden.address)
        hosts.b.egress["hosta"].remove(forbidden.address)
        hosts.start()
        assert turned_away(other)
        assert not forbidden.called
        reason = f"{forbidden.address} is not in the egress list for hosta on hostb"
        hosts.a.wait_log(f"stream refused by the peer.*{reason}.*TARGET_FORBIDDEN")
        hosts.b.wait_log(f"stream refused.*{reason}")
        status = subprocess.run(
            [*MTUNNEL, "status", "--config", str(hosts.a.config), "--json"],
            check=True,
            capture_output=True,
            timeout=20,
        )
        [link] = json.loads(status.stdout)["links"]
        assert link["incidents"][-1]["reason"] == reason
        with connect(entry) as caller, target.accept() as called:
            exchange(caller, called)


def test_path_outside_a_pattern_is_refused(hosts: TwoHosts) -> None:
    entry = hosts.a.leads_to(hosts.b, "unix:/run/qemu/etc/shadow")
    hosts.b.egress["hosta"] = ["unix:/run/qemu/*"]
    hosts.start()
    assert turned_away(entry)
    hosts.a.wait_log("unix:/run/qemu/etc/shadow is not in the egress list for hosta on hostb")


def test_peers_have_separate_lists(hosts: TwoHosts, target: Target) -> None:
    """A target in the list of one peer is forbidden to others: here it is in b's list for a third host."""
    third = hosts.another("hostc", "127.0.0.5")
    hosts.b.knows(third)
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.b.egress = {"hosta": [], "hostc": [target.address]}
    hosts.start()
    assert turned_away(entry)
    assert not target.called
