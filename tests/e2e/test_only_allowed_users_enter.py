"""An ingress is open to the users that it names, and to nobody who cannot be told apart from them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.daemons import TwoHosts
from tests.support.streams import Target, connect, ends_in_reset, exchange

pytestmark = pytest.mark.root

NOBODY = 65534


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Own what is made meanwhile as ``uid``: the kernel remembers who made a socket."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture(params=["tcp", "unix"])
def listen(request: pytest.FixtureRequest, tmp: Path) -> str:
    """Where the ingress listens; "" for any TCP port."""
    tmp.chmod(0o755)
    return f"unix:{tmp}/ingress" if request.param == "unix" else ""


def test_another_user_is_refused(hosts: TwoHosts, target: Target, listen: str) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address, listen, users=("root",))
    hosts.start()
    with acting_as(NOBODY), connect(entry) as caller:
        assert ends_in_reset(caller)
    hosts.a.wait_log(re.escape("user nobody may not use this ingress (root may)"))
    assert not target.called
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)
    [ingress] = hosts.a.status()["ingresses"]
    assert (ingress["accepted"], ingress["refused"]) == (1, 1)


def test_root_has_no_right_of_its_own(hosts: TwoHosts, target: Target, listen: str) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address, listen, users=("nobody",))
    hosts.start()
    with connect(entry) as caller:
        assert ends_in_reset(caller)
    with acting_as(NOBODY), connect(entry) as caller, target.accept() as called:
        exchange(caller, called)


def test_caller_who_hangs_up_at_once_is_never_taken_for_root(
    hosts: TwoHosts, target: Target, listen: str
) -> None:
    """The kernel reports a socket that nobody holds any more as owned by uid 0."""
    entry = hosts.a.leads_to(hosts.b, target.address, listen, users=("root",))
    hosts.start()
    with acting_as(NOBODY):
        for _ in range(60):
            connect(entry).close()
    with connect(entry) as caller, target.accept() as called:  # the first that comes through at all
        exchange(caller, called)
    [ingress] = hosts.a.status()["ingresses"]
    assert (ingress["accepted"], ingress["refused"]) == (1, 60)
