"""An ingress is open to its allowed users only; callers that cannot be identified are refused."""

from __future__ import annotations

import re
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.daemons import TwoHosts
from tests.support.streams import Target, connect, exchange, turned_away
from tests.support.users import NOBODY, acting_as

pytestmark = pytest.mark.root

SEVERAL = ("root", "daemon", "bin")
"""More users than the mode of a unix socket can express, so that callers are checked by uid."""


@pytest.fixture(params=["tcp", "unix"])
def listen(request: pytest.FixtureRequest, tmp: Path) -> str:
    """Where the ingress listens; "" for any TCP port."""
    tmp.chmod(0o755)
    return f"unix:{tmp}/ingress" if request.param == "unix" else ""


def test_another_user_is_refused(hosts: TwoHosts, target: Target, listen: str) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address, listen, users=SEVERAL)
    hosts.start()
    with acting_as(NOBODY):
        assert turned_away(entry)
    hosts.a.wait_log(re.escape("user nobody may not use this ingress (allowed: bin, daemon, root)"))
    assert not target.called
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)
    [ingress] = hosts.a.status()["ingresses"]
    assert (ingress["accepted"], ingress["refused"]) == (1, 1)


@pytest.mark.parametrize("users", [("root",), ("root", "daemon")])
def test_unix_socket_that_one_user_may_use_cannot_be_opened_by_others(
    hosts: TwoHosts, target: Target, tmp: Path, users: tuple[str, ...]
) -> None:
    tmp.chmod(0o755)
    entry = hosts.a.leads_to(hosts.b, target.address, f"unix:{tmp}/ingress", users=users)
    hosts.start()
    with socket.socket(socket.AF_UNIX) as another, acting_as(NOBODY), pytest.raises(PermissionError):
        another.connect(entry.removeprefix("unix:"))
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)


def test_root_is_not_allowed_unless_listed(hosts: TwoHosts, target: Target, listen: str) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address, listen, users=("nobody",))
    hosts.start()
    assert turned_away(entry)
    with acting_as(NOBODY), connect(entry) as caller, target.accept() as called:
        exchange(caller, called)


def test_caller_who_closes_immediately_is_never_taken_for_root(
    hosts: TwoHosts, target: Target, listen: str
) -> None:
    """The kernel reports uid 0 as the owner of a socket that is closed."""
    entry = hosts.a.leads_to(hosts.b, target.address, listen, users=SEVERAL)
    hosts.start()
    with acting_as(NOBODY):
        for _ in range(60):
            with suppress(ConnectionResetError):  # the daemon closed it first
                connect(entry).close()
    with connect(entry) as caller, target.accept() as called:  # the first connection that is admitted
        exchange(caller, called)
    [ingress] = hosts.a.status()["ingresses"]
    assert (ingress["accepted"], ingress["refused"]) == (1, 60)


def test_flood_of_a_refused_user_costs_few_lines_and_no_stream(
    hosts: TwoHosts, target: Target, listen: str
) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address, listen, users=SEVERAL)
    hosts.start()
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)
        with acting_as(NOBODY):
            for _ in range(5):
                assert turned_away(entry, 100)
        exchange(caller, called)
        with connect(entry) as another, target.accept() as other:
            exchange(another, other)
    incidents = hosts.a.link(hosts.b)["incidents"]
    assert [each["count"] for each in incidents if each["what"] == "connection refused"] == [500]
    hosts.a.signal(signal.SIGTERM)
    hosts.a.wait_log('event="and [0-9]+ more" of="connection refused".*uid 65534: [0-9]+')
    assert hosts.a.log.count('event="connection refused"') < 50
