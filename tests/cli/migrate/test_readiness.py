"""Each check of ``mtunnel migrate`` returns its finding, or raises an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from tunnel.cli.migrate.link_monitor import LinkMonitor
from tunnel.cli.migrate.readiness import (
    CheckResult,
    check_callers,
    check_guest,
    check_hosts,
    check_link,
    check_name_free,
    check_redirects,
    check_streams,
    check_targets,
)
from tunnel.daemon.config import IngressConfig
from tunnel.errors import HypervisorError, RefusedError, UnreachableError, UsageError
from tunnel.relay.address import TcpAddress
from tunnel.virt.libvirt import LibvirtGuest, LibvirtHost, State

LANE = {"remote": "192.0.2.2:16515", "kind": "userspace", "cipher": "TLS_AES_256_GCM_SHA384"}
UP = {"peer": "hostb", "state": "up", "lanes": [LANE], "incidents": []}
TROUBLE = {"at": "1", "what": "cannot connect", "reason": "Connection refused"}
DOWN = {"peer": "hostb", "state": "down", "lanes": [], "incidents": [TROUBLE]}


class Links:
    """A tunnel that reports the given states of its link in order; the last one repeats."""

    peer = "hostb"
    stopping = False

    def __init__(self, *links: dict[str, Any]) -> None:
        self._links = list(links)

    async def draining(self) -> bool:
        return self.stopping

    async def faults(self) -> list[tuple[str, str]]:
        return [("redirect:127.0.1.2:49152-49215", "it did not arrive"), ("tcp:127.0.1.4:9", "nor did this")]

    async def link(self) -> dict[str, Any]:
        return self._links.pop(0) if len(self._links) > 1 else self._links[0]


def tunnel(*links: dict[str, Any]) -> LinkMonitor:
    return cast("LinkMonitor", Links(*links))


@pytest.fixture
async def host() -> AsyncIterator[LibvirtHost]:
    """Has one running guest, named test."""
    async with await LibvirtHost.connect("test:///default") as connected:
        yield connected


async def test_link_that_is_up_names_its_lane() -> None:
    found = await check_link(tunnel(UP))
    assert found == CheckResult("link", "hostb at 192.0.2.2:16515, userspace lane, TLS_AES_256_GCM_SHA384")


async def test_stopping_daemon_is_unreachable() -> None:
    links = Links(UP)
    links.stopping = True
    with pytest.raises(
        UnreachableError, match=r"^this host is stopping: its daemon is draining and accepts no new streams"
    ):
        await check_link(cast("LinkMonitor", links))


@pytest.mark.parametrize(
    "uri", ["tcp://127.0.1.2", "tcp://127.0.1.2:49200", "tcp:127.0.1.4:9", "qemu+tcp://127.0.1.2/system"]
)
async def test_route_that_is_not_redirected_is_unreachable(uri: str) -> None:
    with pytest.raises(UnreachableError, match=r"does not lead to hostb: .*not redirected \((it|nor) did"):
        await check_redirects(tunnel(UP), ["unix:///run/other.sock", uri])


@pytest.mark.parametrize("uri", ["tcp://127.0.1.22", "unix:///run/127.0.1.2.sock", "qemu+ssh://hostb/system"])
async def test_unused_redirects_are_ignored(uri: str) -> None:
    await check_redirects(tunnel(UP), [uri])


async def test_link_may_take_a_moment_to_come_up() -> None:
    assert (await check_link(tunnel(DOWN, DOWN, UP))).check == "link"


async def test_link_that_stays_down_names_its_last_incident() -> None:
    with pytest.raises(UnreachableError, match=r"link is down \(cannot connect: Connection refused\)"):
        await check_link(tunnel(DOWN), within=0.02)
    refused = {"at": "2", "kind": "CALLER_REFUSED", "what": "x", "reason": "no link with hostb"}
    with pytest.raises(UnreachableError, match=r"link is down \(cannot connect: Connection refused\)"):
        await check_link(tunnel({**DOWN, "incidents": [TROUBLE, refused]}), within=0.02)
    for incidents in ([], [refused]):
        with pytest.raises(UnreachableError, match="no attempt has failed yet"):
            await check_link(tunnel({**DOWN, "incidents": incidents}), within=0.02)


async def test_link_without_a_reply_in_time() -> None:
    class Silent(Links):
        async def link(self) -> dict[str, Any]:
            await asyncio.sleep(60)
            return UP

    with pytest.raises(UnreachableError, match="unknown: no reply from the daemon"):
        await check_link(cast("LinkMonitor", Silent()), within=0.02)


class Asked:
    """A peer that replies to each target with ``verdict``, and admits port ``but``."""

    peer = "hostb"

    def __init__(self, verdict: str, code: str = "NONE", *, but: int = 0) -> None:
        self._said = {"verdict": verdict, "code": code, "reason": "not in the list"}
        self._but = f"tcp:127.0.0.1:{but}"

    async def probe(self, targets: list[str]) -> list[dict[str, str]]:
        admitted = {"verdict": "admitted", "code": "NONE", "reason": ""}
        return [{"target": each, **(admitted if each == self._but else self._said)} for each in targets]


PORTS = [TcpAddress("127.0.0.1", port) for port in range(49152, 49156)]


async def test_targets_that_are_allowed_are_named() -> None:
    found = await check_targets(cast("LinkMonitor", Asked("admitted")), "hosta", PORTS)
    assert found == CheckResult("targets", "hostb allows tcp:127.0.0.1:49152-49155")


async def test_target_that_is_not_allowed_names_the_rule_to_add() -> None:
    asked = cast("LinkMonitor", Asked("refused", "TARGET_FORBIDDEN", but=49153))
    with pytest.raises(RefusedError) as caught:
        await check_targets(asked, "hosta", PORTS)
    assert str(caught.value) == (
        "hostb does not allow hosta to reach tcp:127.0.0.1:49152, tcp:127.0.0.1:49154-49155: not in the list"
        '; add "tcp:127.0.0.1:49152", "tcp:127.0.0.1:49154-49155" to egress of [[peer]] name = "hosta" on '
        "hostb, and restart its daemon"
    )


async def test_refusal_for_another_reason_names_no_rule() -> None:
    with pytest.raises(RefusedError, match=r"reach tcp:127\.0\.0\.1:49152-49155: not in the list$"):
        await check_targets(cast("LinkMonitor", Asked("refused", "INTERNAL")), "hosta", PORTS)


async def test_stopping_peer_is_unreachable() -> None:
    with pytest.raises(
        UnreachableError, match=r"^hostb is stopping: its daemon is draining and accepts no new streams"
    ):
        await check_targets(cast("LinkMonitor", Asked("refused", "DRAINING")), "hosta", PORTS)


async def test_peer_without_target_checks_passes() -> None:
    found = await check_targets(cast("LinkMonitor", Asked("not asked")), "hosta", PORTS)
    assert found.detail == "not checked: hostb runs an older version that cannot be asked"


async def test_enough_streams_pass() -> None:
    found = await check_streams(tunnel({**UP, "streams_vacant": 257}), 257, 255)
    assert found == CheckResult("streams", "257 needed, 257 free")


@pytest.mark.parametrize(
    ("vacant", "parallel", "advice"),
    [(254, 255, "--parallel 252 would fit"), (2, 255, "other migrations"), (1, 0, "other migrations")],
)
async def test_too_few_streams_are_refused_with_what_fits(vacant: int, parallel: int, advice: str) -> None:
    with pytest.raises(RefusedError, match=f"{vacant} are free on the link with hostb: {advice}") as caught:
        await check_streams(tunnel({**UP, "streams_vacant": vacant}), parallel + 2, parallel)
    assert "raise transport.streams on hostb" in str(caught.value)


@pytest.mark.parametrize("link", [UP, {**DOWN, "streams_vacant": None}])
async def test_unknown_number_of_streams_passes(link: dict[str, Any]) -> None:
    assert (await check_streams(tunnel(link), 257, 255)).detail.startswith("unknown: the link is down, or")


class TwinHost:
    """A fake host with a name and a UUID."""

    def __init__(self, uri: str, uuid: str | None) -> None:
        self.uri = uri
        self._uuid = uuid

    async def uuid(self) -> str | None:
        return self._uuid

    async def name(self) -> str:
        return self.uri.rpartition("/")[2]


def twin(uri: str, uuid: str | None) -> LibvirtHost:
    return cast("LibvirtHost", TwinHost(uri, uuid))


async def test_same_host_is_refused() -> None:
    with pytest.raises(UsageError, match=r"have the same host UUID \(1234\).*host_uuid"):
        await check_hosts(twin("x:///a", "1234"), twin("x:///b", "1234"))


@pytest.mark.parametrize(("here", "there"), [("1", "2"), (None, None)])
async def test_two_hosts_pass(here: str | None, there: str | None) -> None:
    found = await check_hosts(twin("x:///a", here), twin("x:///b", there))
    assert found == CheckResult("libvirt", "a (x:///a) to b (x:///b)")


async def test_running_guest_passes(host: LibvirtHost) -> None:
    guest, found = await check_guest(host, "test")
    assert guest.name == "test"
    assert found == CheckResult("guest", "test is running")


async def test_disks_of_a_guest_are_counted(host: LibvirtHost) -> None:
    guest, _ = await check_guest(host, "test")
    assert await guest.disks() == 1


async def test_guest_with_a_libvirt_job_is_refused_first(
    host: LibvirtHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration in progress also shows at the destination, which must not be reported as the cause."""

    async def operation(_: LibvirtGuest) -> str | None:
        return "migration out"

    monkeypatch.setattr(LibvirtGuest, "operation", operation)
    with pytest.raises(
        HypervisorError, match=r"test: libvirt is already running another job \(migration out\)"
    ):
        await check_guest(host, "test")


async def test_unknown_guest_is_refused_with_the_running_ones(host: LibvirtHost) -> None:
    with pytest.raises(HypervisorError, match="no guest 'web1' at test:///default; running guests: test"):
        await check_guest(host, "web1")


async def test_guest_without_a_failed_postcopy_cannot_be_resumed(host: LibvirtHost) -> None:
    with pytest.raises(
        HypervisorError, match=r"test is running at .*, not in failed post-copy or in post-copy"
    ):
        await check_guest(host, "test", resume=True)


@pytest.mark.parametrize("verb", ["destroy", "managedSave"])
async def test_guest_that_is_off_or_saved_is_refused(host: LibvirtHost, verb: str) -> None:
    guest = await host.guest("test")
    assert guest is not None
    await guest._ask(verb, getattr(guest._domain, verb))
    words = (
        "is shut off at"
        if verb == "destroy"
        else "is saved at .*; starting it there restores the saved memory"
    )
    with pytest.raises(HypervisorError, match=f"test {words}"):
        await check_guest(host, "test")
    await guest._ask("create", guest._domain.create)  # all connections of the driver share one host


class FakeGuest:
    """A fake guest with a name, UUID, state, and the uid of its QEMU."""

    def __init__(self, name: str, uuid: str, state: State = State.RUNNING, uid: int | None = None) -> None:
        self.name = name
        self.uuid = uuid
        self._state = state
        self._uid = uid

    async def state(self) -> State:
        return self._state

    async def uid(self) -> int | None:
        return self._uid


class FarHost:
    """A destination with these guests."""

    uri = "qemu:///far"

    def __init__(self, *guests: FakeGuest) -> None:
        self._guests = guests

    async def guest(self, name: str) -> FakeGuest | None:
        return next((each for each in self._guests if each.name == name), None)

    async def guest_with(self, uuid: str) -> FakeGuest | None:
        return next((each for each in self._guests if each.uuid == uuid), None)


async def free(*there: FakeGuest) -> CheckResult:
    return await check_name_free(
        cast("LibvirtGuest", FakeGuest("web1", "u-1")), cast("LibvirtHost", FarHost(*there))
    )


async def test_free_name_passes() -> None:
    assert await free(FakeGuest("web2", "u-2")) == CheckResult("destination", "web1 does not exist there")
    assert (await free(FakeGuest("web1", "u-1", State.OFF))).detail == "web1 is shut off there"
    assert (await free(FakeGuest("web1", "u-1", State.SAVED))).detail == "web1 is saved there"


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (FakeGuest("web1", "u-1"), "the same guest is on this host .*newer data before shutting down either"),
        (
            FakeGuest("web1", "u-1", State.PAUSED),
            "the same guest is on this host .*newer data before shutting down either",
        ),
        (FakeGuest("web1", "u-2"), "the web1 to migrate is a different guest .*rename one"),
        (FakeGuest("web1", "u-2", State.OFF), "the web1 to migrate is a different guest .*rename one"),
        (FakeGuest("web9", "u-1"), "web1 has the same UUID .*two names"),
        (FakeGuest("web9", "u-1", State.OFF), "web1 has the same UUID .*two names"),
    ],
)
async def test_taken_name_is_refused_with_both_uuids(there: FakeGuest, words: str) -> None:
    with pytest.raises(HypervisorError, match=words) as caught:
        await free(there)
    text = str(caught.value)
    assert text.startswith(
        f"a guest named '{there.name}' is already {await there.state()} at qemu:///far (UUID"
    )
    assert f"UUID {there.uuid}" in text
    assert "u-1" in text
    assert "stop" not in text
    assert "destroy" not in text


def ingress(*users: str) -> IngressConfig:
    return IngressConfig.model_validate(
        {"peer": "hostb", "listen": "redirect:127.0.1.2:49152-49215", "users": users}
    )


async def test_user_of_qemu_that_is_not_allowed_is_refused_before_anything_moves() -> None:
    guest = cast("LibvirtGuest", FakeGuest("web1", "u-1", uid=4000000001))
    await check_callers(guest, [ingress("0", "4000000001")])
    with pytest.raises(
        RefusedError, match=r"QEMU of web1 runs as user 4000000001, which may not use .*redirect:127"
    ):
        await check_callers(guest, [ingress("0", "4000000001"), ingress("0")])


async def test_unknown_user_of_qemu_passes() -> None:
    await check_callers(cast("LibvirtGuest", FakeGuest("web1", "u-1")), [ingress("0")])
