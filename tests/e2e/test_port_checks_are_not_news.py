"""A thousand port checks at an ingress leave few warnings in both logs, and few incidents in ``status``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.daemons import TwoHosts
from tests.support.streams import Target, connect, exchange
from tunnel.proof.free_port import free_port

pytestmark = [pytest.mark.slow]

CHECKS = 1000
MOST_WARNINGS = 100
"""In one log: each of a few events may be logged twenty times in a burst, and then every five seconds."""


@pytest.fixture
def checked() -> Iterator[Target]:
    """The target of the ingress that is checked, if it is used."""
    with Target() as made:
        yield made


@pytest.mark.parametrize("kind", ["forbidden", "absent", "present"])
def test_port_checks_fill_no_log(hosts: TwoHosts, target: Target, checked: Target, kind: str) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    address = checked.address if kind == "present" else f"tcp:127.0.0.1:{free_port('127.0.0.1')}"
    ingress = hosts.a.leads_to(hosts.b, address, f"unix:{hosts.a.directory}/checked")
    if kind == "forbidden":
        hosts.b.egress["hosta"].remove(address)
    hosts.start()
    hosts.wait_up()
    for _ in range(CHECKS):
        connect(ingress).close()
        while checked.called:  # closes the connection
            continue
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)
    for host in (hosts.a, hosts.b):
        warnings = [line for line in host.log.splitlines() if "level=warning" in line]
        assert len(warnings) <= MOST_WARNINGS, "\n".join(warnings[:10])
    assert len(hosts.a.link(hosts.b)["incidents"]) <= 10
