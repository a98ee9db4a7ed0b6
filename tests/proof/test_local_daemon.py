"""A daemon is observed through its control socket and its process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.daemons import TwoHosts
from tests.support.waiting import until
from tunnel.errors import TunnelError, UnreachableError
from tunnel.proof.local_daemon import LocalDaemon
from tunnel.virt.process import Child


async def test_daemon_that_exits_is_an_error_with_its_output(tmp: Path) -> None:
    process = Child("it", ["sh", "-c", "echo a mistake; exit 2"], tmp / "log")
    daemon = LocalDaemon("the daemon of hosta", tmp / "none", process)
    await process.wait()
    with pytest.raises(TunnelError, match=r"the daemon of hosta exited\n  a mistake"):
        daemon.serves()


async def test_daemon_that_does_not_reply_is_not_linked(tmp: Path) -> None:
    process = Child("it", ["sleep", "600"], tmp / "log")
    daemon = LocalDaemon("it", tmp / "none", process)
    assert (daemon.running, daemon.is_linked("hostb")) == (True, False)
    with pytest.raises(UnreachableError):
        daemon.link("hostb")
    await process.stop()


async def test_links_are_found_by_peer(tmp: Path) -> None:
    with TwoHosts(tmp) as hosts:
        hosts.a.leads_to(hosts.b, "tcp:127.0.0.1:9")
        hosts.a.start()
        daemon = hosts.a.daemon
        await until(daemon.serves, "for it to serve")
        assert not daemon.is_linked("hostb")
        with pytest.raises(TunnelError, match="hosta has no peer hostc"):
            daemon.link("hostc")
        hosts.b.start()
        await until(lambda: daemon.is_linked("hostb"), "for the link")
        assert daemon.status()["pid"] == daemon.pid
