"""The rules of a daemon's ingresses: put in place, put right on request, and taken away in two steps."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import structlog

from tests.support.links import make_link
from tests.support.waiting import until
from tunnel.daemon import redirects as module
from tunnel.daemon.redirects import Redirects
from tunnel.errors import UsageError
from tunnel.relay.address import parse_listen, parse_target
from tunnel.relay.ingress import Ingress, IngressPlan
from tunnel.transport.nftables import Redirect


class Table:
    """In place of the firewall: what was done to it, and by whom."""

    def __init__(self, host: str) -> None:
        self.name = f"table of {host}"
        self.done: list[tuple[str, list[Redirect]]] = []
        self.threads: set[str] = set()
        self.fault: Exception | None = None
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def _do(self, what: str, redirects: list[Redirect]) -> None:
        assert self.may_go_on.wait(10)
        self.threads.add(threading.current_thread().name)
        if self.fault is not None:
            raise self.fault
        self.done.append((what, redirects))

    def install(self, redirects: list[Redirect]) -> None:
        self._do("install", redirects)

    def repair(self, redirects: list[Redirect]) -> None:
        self._do("repair", redirects)

    def clear(self) -> None:
        self._do("clear", [])

    def remove(self) -> None:
        self._do("remove", [])

    @property
    def steps(self) -> list[str]:
        return [what for what, _ in self.done]


@asynccontextmanager
async def made(monkeypatch: pytest.MonkeyPatch, *listens: str) -> AsyncIterator[tuple[Redirects, Table]]:
    """Redirects for ingresses that listen so, whose table is in the test's hands; somebody keeps them."""
    monkeypatch.setattr(module, "RedirectTable", Table)
    ingresses = []
    for listen in map(parse_listen, listens):
        plan = IngressPlan(listen, parse_target("tcp:127.0.0.1:1"), {os.geteuid()})
        ingresses.append(Ingress(plan, make_link("hosta", "hostb")))
    redirects = Redirects("hosta", ingresses)
    table = redirects._table
    assert isinstance(table, Table)
    keeping = asyncio.create_task(redirects.keep())
    try:
        yield redirects, table
        assert not keeping.done(), keeping
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        await redirects.remove()
        for ingress in ingresses:
            await ingress.close()


def has_repaired(table: Table, times: int) -> bool:
    return table.steps.count("repair") == times


TWO = ("redirect:127.0.1.2:49152-49215", "redirect:127.0.1.3:7")


async def test_each_range_leads_to_its_ingress(monkeypatch: pytest.MonkeyPatch) -> None:
    async with made(monkeypatch, *TWO) as (redirects, table):
        await redirects.install()
        [(what, rules)] = table.done
        assert what == "install"
        assert [(each.host, each.first_port, each.last_port) for each in rules] == [
            ("127.0.1.2", 49152, 49215),
            ("127.0.1.3", 7, 7),
        ]
        assert {each.comment for each in rules} == {"leads to hostb"}
        assert len({each.port for each in rules}) == 2
        for each in rules:
            socket.create_connection(("127.0.0.1", each.port), 10).close()


async def test_without_a_redirect_the_firewall_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with made(monkeypatch) as (redirects, table):
        await redirects.install()
        redirects.repair()
        await until(lambda: not redirects._asked.is_set(), "for the request to be heard")
        await redirects.clear()
        await redirects.remove()
        assert table.done == []


async def test_failure_ends_the_start_and_leaves_the_table_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async with made(monkeypatch, *TWO) as (redirects, table):
        table.fault = UsageError("no firewall")
        with pytest.raises(UsageError, match="no firewall"):
            await redirects.install()
        table.fault = None
        await redirects.clear()
        await redirects.remove()
        assert table.done == []


async def test_every_request_repairs(monkeypatch: pytest.MonkeyPatch) -> None:
    async with made(monkeypatch, *TWO) as (redirects, table):
        await redirects.install()
        for count in (1, 2):
            redirects.repair()
            await until(partial(has_repaired, table, count), "for the repair")
        assert [rules for _, rules in table.done] == [table.done[0][1]] * 3


async def test_failed_repair_is_an_error_in_the_log_and_the_next_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with made(monkeypatch, *TWO) as (redirects, table):
        await redirects.install()
        table.fault = UsageError("the firewall is gone")
        with structlog.testing.capture_logs() as said:
            redirects.repair()
            await until(lambda: len(said) == 2, "for the failure to be told")
        assert (said[1]["log_level"], said[1]["error"]) == ("error", "the firewall is gone")
        table.fault = None
        redirects.repair()
        await until(lambda: "repair" in table.steps, "for the repair")


async def test_repair_that_is_under_way_does_not_overtake_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with made(monkeypatch, *TWO) as (redirects, table):
        await redirects.install()
        table.may_go_on.clear()
        redirects.repair()
        await until(lambda: not redirects._asked.is_set(), "for the repair to begin")
        ending = asyncio.create_task(redirects.clear())
        await asyncio.sleep(0)
        table.may_go_on.set()
        await ending
        await redirects.remove()
        assert table.steps == ["install", "repair", "clear", "remove"]
        assert len(table.threads) == 1
        assert threading.current_thread().name not in table.threads, "the loop does not wait for nft"


async def test_failure_at_the_end_does_not_keep_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    async with made(monkeypatch, *TWO) as (redirects, table):
        await redirects.install()
        table.fault = UsageError("no firewall")
        await redirects.clear()
        await redirects.remove()
        assert table.steps == ["install"]
