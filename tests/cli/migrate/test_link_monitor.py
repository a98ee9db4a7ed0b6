"""The throughput and incidents of a link during a migration, from the local daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.waiting import until
from tunnel.cli.migrate import link_monitor as module
from tunnel.cli.migrate.link_monitor import Cause, LinkMonitor, LinkNews, cause_of, rate_between
from tunnel.daemon import control_socket
from tunnel.errors import UnreachableError, UsageError
from tunnel.relay.incidents import IncidentKind
from tunnel.relay.status_schema import IncidentStatus

NEW: IncidentStatus = {
    "at": "2",
    "since": "2",
    "count": 1,
    "kind": IncidentKind.STREAM_REFUSED_BY_PEER.name,
    "what": "stream refused by the peer",
    "reason": "tcp:127.0.0.1:1 is not allowed",
    "code": "TARGET_FORBIDDEN",
    "uid": None,
}
OLD: IncidentStatus = {**NEW, "at": "1", "kind": IncidentKind.LANE_LOST.name, "what": "lane lost", "code": ""}


class Daemon:
    """A daemon that replies with its link, or does not reply when ``gone``."""

    def __init__(self) -> None:
        self.link: dict[str, Any] = {
            "peer": "hostb",
            "state": "up",
            "since": "1",
            "lanes": [{"bytes_sent": 0}],
            "incidents": [OLD],
        }
        self.gone = False
        self.stopping = False
        self.pid = 1
        self.records: list[tuple[str, str]] = []

    def ask(self, path: Path, command: str, **arguments: Any) -> Any:
        assert path == Path("/control")
        if command == "probe":
            return [{"target": each, "peer": arguments["peer"]} for each in arguments["targets"]]
        if self.gone:
            raise UnreachableError("no daemon answers")
        if command == "record":
            self.records.append((arguments["peer"], arguments["text"]))
            return None
        assert (command, arguments) == ("status", {})
        self.link["lanes"][0]["bytes_sent"] += 1000
        return {"pid": self.pid, "draining": self.stopping, "links": [{"peer": "hosta"}, self.link]}


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    answering = Daemon()
    for where in (module, control_socket):
        monkeypatch.setattr(where, "ask", answering.ask)
    monkeypatch.setattr(module, "PERIOD", 0.01)
    return answering


def test_rate_is_the_difference_over_the_time() -> None:
    assert rate_between((1.0, 1000), (3.0, 5000)) == 2000


@pytest.mark.parametrize(
    ("before", "now"), [(None, (1.0, 10)), ((1.0, 10), (2.0, 5)), ((1.0, 10), (1.0, 20))]
)
def test_rate_is_unknown_at_first_and_after_a_change_of_lanes(
    before: tuple[float, int] | None, now: tuple[float, int]
) -> None:
    assert rate_between(before, now) is None


async def test_stopping_daemon_is_reported(daemon: Daemon) -> None:
    tunnel = LinkMonitor(Path("/control"), "hostb")
    assert await tunnel.draining() is False
    daemon.stopping = True
    assert await tunnel.draining() is True
    daemon.gone = True
    with pytest.raises(UnreachableError):
        await tunnel.draining()


async def test_rate_is_updated_and_unknown_without_the_daemon(daemon: Daemon) -> None:
    tunnel = LinkMonitor(Path("/control"), "hostb")
    async with tunnel.watching():
        await until(lambda: tunnel.rate)
        daemon.gone = True
        await until(lambda: tunnel.rate is None)


async def test_end_and_restart_of_the_daemon_are_news(daemon: Daemon) -> None:
    tunnel = LinkMonitor(Path("/control"), "hostb")
    async with tunnel.watching():
        daemon.gone = True
        assert await tunnel.news() == [LinkNews("the daemon of this host does not answer: no daemon answers")]
        daemon.gone, daemon.pid = False, 2
        (news,) = await tunnel.news()
        assert news.text.startswith("the daemon of this host was restarted: ")


async def test_link_is_held_if_it_was_never_down(daemon: Daemon) -> None:
    tunnel = LinkMonitor(Path("/control"), "hostb")
    assert not await tunnel.held(), "not watching yet"
    async with tunnel.watching():
        assert await tunnel.held()
        for key, value in (("state", "resuming"), ("since", "2")):
            before = daemon.link[key]
            daemon.link[key] = value
            assert not await tunnel.held()
            daemon.link[key] = before
        daemon.pid = 2
        assert not await tunnel.held()
        daemon.pid, daemon.gone = 1, True
        assert not await tunnel.held()


async def test_there_is_no_news_before_watching(daemon: Daemon) -> None:
    assert await LinkMonitor(Path("/control"), "hostb").news() == []


async def test_news_are_new_incidents(daemon: Daemon) -> None:
    tunnel = LinkMonitor(Path("/control"), "hostb")
    async with tunnel.watching():
        assert await tunnel.news() == []
        daemon.link["incidents"] = [OLD, NEW]
        text = "stream refused by the peer: tcp:127.0.0.1:1 is not allowed"
        assert await tunnel.news() == [LinkNews(text, Cause.REFUSAL)]


async def test_unknown_peer_is_a_usage_error(daemon: Daemon) -> None:
    with pytest.raises(UsageError, match="has no peer hostc: restart it with this configuration"):
        await LinkMonitor(Path("/control"), "hostc").link()


async def test_probe_goes_through_the_daemon(daemon: Daemon) -> None:
    answers = await LinkMonitor(Path("/control"), "hostb").probe(("tcp:127.0.0.1:1",))
    assert answers == [{"target": "tcp:127.0.0.1:1", "peer": "hostb"}]


async def test_a_record_is_one_line_and_needs_no_daemon(daemon: Daemon) -> None:
    tunnel = LinkMonitor(Path("/control"), "hostb")
    await tunnel.record("failed: no\nnext\tline")
    assert daemon.records == [("hostb", "failed: no next line")]
    daemon.gone = True
    await tunnel.record("not recorded")
    assert len(daemon.records) == 1


async def test_no_daemon_is_unreachable(daemon: Daemon) -> None:
    daemon.gone = True
    with pytest.raises(UnreachableError):
        await LinkMonitor(Path("/control"), "hostb").link()


NONE_OF_THESE = "stream refused by the peer: draining, unreachable"


@pytest.mark.parametrize(
    ("kind", "code", "cause"),
    [
        ("STREAM_REFUSED_BY_PEER", "TARGET_FORBIDDEN", Cause.REFUSAL),
        ("STREAM_REFUSED_BY_PEER", "TARGET_UNREACHABLE", Cause.ABSENCE),
        ("STREAM_REFUSED_BY_PEER", "DRAINING", Cause.ABSENCE),
        ("CALLER_REFUSED", "", Cause.REFUSAL),
        ("CALLER_REFUSED", "LINK_LOST", Cause.ABSENCE),
        ("CALLER_REFUSED", "DRAINING", Cause.ABSENCE),
        ("LANE_LOST", "", Cause.OTHER),
        ("LINK_DOWN", "LINK_LOST", Cause.OTHER),
    ],
)
@pytest.mark.parametrize("text", ["", NONE_OF_THESE])
def test_the_cause_depends_on_kind_and_code_and_on_no_text(
    kind: str, code: str, cause: Cause, text: str
) -> None:
    assert cause_of({**NEW, "kind": kind, "code": code, "what": text, "reason": text}) is cause


def test_incidents_of_an_older_daemon_have_no_kind() -> None:
    older = cast("IncidentStatus", {"at": "1", "what": NONE_OF_THESE, "reason": "", "code": "DRAINING"})
    assert cause_of(older) is Cause.OTHER
