"""The redirects of a daemon's ingresses: installed, monitored, repaired, and removed in two steps."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import structlog

from tests.support.links import make_link
from tests.support.namespace import nft, ruleset
from tests.support.waiting import until
from tunnel.daemon import aliases
from tunnel.daemon import redirects as module
from tunnel.daemon.redirects import Redirects
from tunnel.errors import UsageError
from tunnel.host import guard_route, nftables
from tunnel.host.nftables import Redirect, RedirectTable
from tunnel.relay.address import parse_listen, parse_target
from tunnel.relay.ingress import Ingress, IngressPlan

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("network")]


class Table(RedirectTable):
    """A fake of the firewall that records the operations and their threads."""

    def __init__(self, host: str) -> None:
        self.name = f"table of {host}"
        self.left = False
        self.done: list[tuple[str, list[Redirect]]] = []
        self.threads: set[str] = set()
        self.fault: Exception | None = None
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def _do(self, what: str, redirects: Iterable[Redirect] = ()) -> None:
        assert self.may_go_on.wait(10)
        self.threads.add(threading.current_thread().name)
        if self.fault is not None:
            raise self.fault
        self.done.append((what, list(redirects)))

    def install(self, redirects: Iterable[Redirect]) -> None:
        self._do("install", redirects)

    def repair(self, redirects: Iterable[Redirect]) -> None:
        self._do("repair", redirects)

    def clear(self, redirects: Iterable[Redirect]) -> None:
        self._do("clear")

    def close(self, redirects: Iterable[Redirect]) -> None:
        self._do("close")

    def remove(self) -> None:
        self._do("remove")

    def exists(self) -> bool:
        return self.left

    def fingerprint(self) -> bytes:
        return b"as it must be"

    @property
    def steps(self) -> list[str]:
        return [what for what, _ in self.done]


@asynccontextmanager
async def made(monkeypatch: pytest.MonkeyPatch, *listens: str) -> AsyncIterator[tuple[Redirects, Table]]:
    """Redirects for ingresses on ``listens`` with a fake table, and a running ``keep`` task."""
    monkeypatch.setattr(module, "RedirectTable", Table)
    ingresses = []
    for listen in map(parse_listen, listens):
        plan = IngressPlan(listen, parse_target("tcp:127.0.0.1:1"), {os.geteuid()}, guarded=True)
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
        await redirects.close()
        for ingress in ingresses:
            await ingress.close()


def has_repaired(table: Table, times: int) -> bool:
    return table.steps.count("repair") == times


TWO = ("redirect:127.0.1.2:49152-49215", "redirect:127.0.1.3:7")


async def test_each_range_leads_to_its_ingress(monkeypatch: pytest.MonkeyPatch) -> None:
    async with made(monkeypatch, *TWO) as (redirects, table):
        await redirects.install()
        [(first, _), (second, rules)] = table.done
        assert (first, second) == ("close", "install"), "the guard first, then the redirects"
        assert [(each.host, each.first_port, each.last_port) for each in rules] == [
            ("127.0.1.2", 49152, 49215),
            ("127.0.1.3", 7, 7),
        ]
        assert {each.comment for each in rules} == {"leads to hostb"}
        assert len({each.port for each in rules}) == 2
        for each in rules:
            socket.create_connection(("127.0.0.1", each.port), 10).close()


@pytest.mark.parametrize("left", [False, True])
async def test_without_a_redirect_only_stale_rules_are_removed(
    monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    guard_route.install("127.0.1.2")
    async with made(monkeypatch) as (redirects, table):
        table.left = left
        await redirects.install()
        redirects.repair()
        await until(lambda: not redirects._asked.is_set(), "for the request to be processed")
        await redirects.clear()
        await redirects.close()
        assert table.steps == ["remove"] * left
        assert guard_route.installed() == set()


async def test_failure_ends_the_start_and_leaves_the_table_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async with made(monkeypatch, *TWO) as (redirects, table):
        table.fault = UsageError("no firewall")
        with pytest.raises(UsageError, match="no firewall"):
            await redirects.install()
        table.fault = None
        await redirects.clear()
        await redirects.close()
        assert table.done == []


async def test_every_request_repairs(monkeypatch: pytest.MonkeyPatch) -> None:
    async with made(monkeypatch, *TWO) as (redirects, table):
        await redirects.install()
        for count in (1, 2):
            redirects.repair()
            await until(partial(has_repaired, table, count), "for the repair")
        assert [rules for what, rules in table.done if what != "close"] == [table.done[1][1]] * 3


async def test_failed_repair_is_an_error_in_the_log_and_the_next_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with made(monkeypatch, *TWO) as (redirects, table):
        await redirects.install()
        table.fault = UsageError("the firewall is gone")
        with structlog.testing.capture_logs() as said:
            redirects.repair()
            await until(lambda: said, "for the failure to be logged")
        assert (said[0]["log_level"], said[0]["error"]) == ("error", "the firewall is gone")
        table.fault = None
        redirects.repair()
        await until(lambda: "repair" in table.steps, "for the repair")


async def test_repair_in_progress_completes_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with made(monkeypatch, *TWO) as (redirects, table):
        await redirects.install()
        table.may_go_on.clear()
        redirects.repair()
        await until(lambda: not redirects._asked.is_set(), "for the repair to begin")
        ending = asyncio.create_task(redirects.clear())
        await asyncio.sleep(0)
        table.may_go_on.set()
        await ending
        await redirects.close()
        assert table.steps == ["close", "install", "repair", "clear", "close"]
        assert len(table.threads) == 1
        assert threading.current_thread().name not in table.threads, "nft does not block the loop"


async def test_failure_at_the_end_does_not_stop_the_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    async with made(monkeypatch, *TWO) as (redirects, table):
        await redirects.install()
        table.fault = UsageError("no firewall")
        await redirects.clear()
        await redirects.close()
        assert table.steps == ["close", "install"]


# With the real firewall.

ALIAS, PORT = "127.0.1.2", 49152
LISTEN = f"redirect:{ALIAS}:{PORT}-{PORT + 1}"
DAMAGE = [
    "delete table ip mtunnel-hosta",
    "flush table ip mtunnel-hosta",
    "flush ruleset",
    "flush chain ip mtunnel-hosta guard",
    "add table ip mtunnel-hosta { flags dormant; }",
]


def add_to_loopback(address: str) -> None:
    subprocess.run(["ip", "address", "add", f"{address}/8", "dev", "lo"], check=True, timeout=60)


@asynccontextmanager
async def real(*listens: str, guarded: bool = True) -> AsyncIterator[Redirects]:
    ingresses = [
        Ingress(
            IngressPlan(parse_listen(listen), None, {os.geteuid()}, guarded=guarded),
            make_link("hosta", "hostb"),
        )
        for listen in listens
    ]
    redirects = Redirects("hosta", ingresses)
    await redirects.install()
    keeping = asyncio.create_task(redirects.keep())
    try:
        yield redirects
        assert not keeping.done(), keeping
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        await redirects.clear()
        await redirects.close()
        for ingress in ingresses:
            await ingress.close()


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
async def test_external_change_of_the_table_is_undone(damage: str) -> None:
    async with real(LISTEN):
        before = sorted(ruleset().splitlines())
        nft(damage)
        assert sorted(ruleset().splitlines()) != before
        await until(lambda: sorted(ruleset().splitlines()) == before, "for the table")


async def test_removed_route_is_restored() -> None:
    async with real(LISTEN):
        assert guard_route.is_guarded(ALIAS)
        guard_route.remove(ALIAS)
        await until(lambda: guard_route.is_guarded(ALIAS), "for the route")


async def test_change_of_another_table_is_ignored() -> None:
    async with real(LISTEN) as redirects:
        with structlog.testing.capture_logs() as said:
            nft("add table ip other")
            seen = nftables.generation()
            await until(lambda: redirects._seen[0] == seen, "for it to be detected")
        assert said == []


async def test_examination_repairs_first() -> None:
    async with real(LISTEN) as redirects:
        assert await redirects.examine() == {}
        nft("flush ruleset")
        assert await redirects.examine() == {}
        assert "redirect to" in ruleset()


async def test_fault_of_a_redirect_is_logged_once_and_so_is_its_end() -> None:
    async with real(LISTEN) as redirects:
        reason = f"a probe connection to {ALIAS}:{PORT} did not arrive: Connection refused"
        with structlog.testing.capture_logs() as said:
            nft("add table ip x; add chain ip x out { type filter hook output priority raw; }")
            nft("add rule ip x out notrack")
            for _ in range(2):
                assert await redirects.examine() == {LISTEN: reason}
            nft("delete table ip x")
            assert await redirects.examine() == {}
        assert [(each["event"], each["ingress"]) for each in said] == [
            ("not redirected", LISTEN),
            ("redirected again", LISTEN),
        ]


async def test_another_daemon_that_starts_meanwhile_removes_no_route(monkeypatch: pytest.MonkeyPatch) -> None:
    add = guard_route.install

    def add_beside_another(alias: str) -> None:
        add(alias)
        aliases.discard(RedirectTable("hostb"))

    monkeypatch.setattr(guard_route, "install", add_beside_another)
    async with real(LISTEN):
        assert guard_route.is_guarded(ALIAS)
        nft("flush ruleset")
        guard_route.remove(ALIAS)
        await until(lambda: guard_route.is_guarded(ALIAS), "for the route")


async def test_guard_remains_after_the_end() -> None:
    async with real(LISTEN):
        pass
    assert "redirect" not in ruleset()
    assert "reject with tcp reset" in ruleset()
    assert guard_route.is_guarded(ALIAS)


async def test_address_of_the_hosts_own_name_gets_no_guard_route() -> None:
    async with real(LISTEN, guarded=False):
        assert not guard_route.is_guarded(ALIAS)
        assert f"tcp dport {PORT}-{PORT + 1} reject" in ruleset()


async def test_address_on_an_interface_is_reported() -> None:
    add_to_loopback(ALIAS)
    with structlog.testing.capture_logs() as said:
        async with real(LISTEN):
            pass
    [warning] = [each for each in said if each["event"] == "not redirected"]
    assert f"{ALIAS} is assigned to an interface" in warning["reason"]


async def test_guards_of_a_previous_configuration_are_removed_and_those_of_other_daemons_kept() -> None:
    async with real(LISTEN):
        pass
    aliases.install(["127.0.1.7"])
    RedirectTable("hostb").close([Redirect("127.0.1.7", 1, 1, 0)])
    async with real("redirect:127.0.1.3:49152"):
        assert guard_route.installed() == {"127.0.1.3", "127.0.1.7"}
