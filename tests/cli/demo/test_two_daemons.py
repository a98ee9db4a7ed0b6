"""Two real daemons on loopback addresses establish a link, and leave nothing behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import until
from tunnel.cli.demo.two_daemons import IngressKind, Route, TwoDaemons
from tunnel.errors import TunnelError
from tunnel.proof.cpu_time import process_seconds


@pytest.mark.parametrize("kind", IngressKind)
async def test_both_daemons_are_up_with_one_link(tmp: Path, kind: IngressKind) -> None:
    async with await TwoDaemons.start(tmp, kind) as stage:
        here, there = await asyncio.gather(stage.status("hosta"), stage.status("hostb"))
        assert [link["peer"] for link in here["links"]] == ["hostb"]
        assert [link["peer"] for link in there["links"]] == ["hosta"]
        (ingress,) = here["ingresses"]
        assert (ingress["listen"], ingress["target"]) == (stage.route.ingress, stage.route.target)
        assert here["pid"] == stage.daemons["hosta"].pid
        assert process_seconds(stage.daemons["hosta"].pid) > 0
    assert [daemon.running for daemon in stage.daemons.values()] == [False, False]


async def test_two_pairs_run_side_by_side(tmp: Path) -> None:
    for name in ("one", "two"):
        (tmp / name).mkdir()
    async with (
        await TwoDaemons.start(tmp / "one", IngressKind.TCP) as one,
        await TwoDaemons.start(tmp / "two", IngressKind.TCP) as two,
    ):
        assert one.route != two.route


async def test_log_of_a_daemon_that_fails_to_start_is_included(
    tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Route, "through", lambda kind, directory: Route("udp:nonsense", "tcp:127.0.0.1:1"))
    with pytest.raises(TunnelError, match=r"(?s)daemon of hosta exited\n.*udp:nonsense"):
        await TwoDaemons.start(tmp, IngressKind.TCP)


async def test_cancelled_start_leaves_no_daemon(tmp: Path) -> None:
    us = psutil.Process()
    before = set(us.children())
    start = asyncio.create_task(TwoDaemons.start(tmp, IngressKind.UNIX))
    await until(lambda: set(us.children()) - before, "for a daemon to start")
    started = set(us.children()) - before
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not any(child.is_running() for child in started)
