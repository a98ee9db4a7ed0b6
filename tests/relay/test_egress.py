"""Dialling targets for a peer: the allow list, order, deadlines, and errors."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import re
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.targets import ANY, Requester, Target
from tests.support.waiting import turns, until
from tunnel.errors import RefusedError, UnreachableError
from tunnel.relay import egress as module
from tunnel.relay.address import RedirectAddress, TcpAddress, UnixAddress, parse_target
from tunnel.relay.allow_list import AllowList
from tunnel.relay.egress import Egress, dial
from tunnel.wire.codes import Code

# What is allowed.


async def test_admitting_dials_nothing_and_checks_no_file(
    link: Requester, egress: Egress, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing socket is admitted like an existing one: only the list counts."""
    monkeypatch.setattr(module, "dial", None)
    target.listen()
    for text in (target.text, "unix:/tmp/no/socket"):
        assert str(egress.admit(text)) == text
    with pytest.raises(RefusedError, match="not in the egress list for hosta on hostb"):
        egress.admit("unix:/etc/passwd")
    assert not egress._tasks
    assert target.accepted() == 0


@pytest.mark.parametrize(
    "text",
    ["tcp:127.0.0.1:22", "tcp:192.0.2.1:49152", "tcp:[::1]:49152", "unix:/run/libvirt/libvirt-sock"],
)
async def test_target_that_is_not_on_the_list_is_never_dialled(
    link: Requester, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dials: list[object] = []
    monkeypatch.setattr(module, "dial", lambda *arguments: dials.append(arguments))
    Egress(
        AllowList.parse(["tcp:127.0.0.1:49152-49215", "unix:/run/qemu/*"]), link, "hostb", "hosta"
    ).request(1, text)
    await turns()
    assert link.errors[1].code is Code.TARGET_FORBIDDEN
    assert "egress list" in str(link.errors[1])
    assert dials == []


@pytest.mark.parametrize(
    "text", ["", "tcp:", "tcp:localhost.example:1", "exec:reboot", "unix:/run/qemu/../x"]
)
async def test_invalid_target_is_forbidden(link: Requester, egress: Egress, text: str) -> None:
    egress.request(1, text)
    assert link.errors[1].code is Code.TARGET_FORBIDDEN


async def test_an_empty_list_allows_nothing(link: Requester, target: Target) -> None:
    target.listen()
    Egress(AllowList(), link, "hostb", "hosta").request(1, target.text)
    assert link.errors[1].code is Code.TARGET_FORBIDDEN
    assert target.accepted() == 0


async def test_listen_addresses_of_this_daemon_are_never_dialled(link: Requester, target: Target) -> None:
    target.listen()
    own = (
        RedirectAddress("127.0.1.2", 49152, 49215),
        TcpAddress("127.0.0.1", 49200),
        UnixAddress(str(target.path)),
    )
    everything = AllowList.parse(["tcp:127.0.0.1:1-65535", "tcp:127.0.1.2:1-65535", "unix:/tmp/*/*"])
    guarded = dataclasses.replace(everything, own=own)
    texts = [target.text, "tcp:127.0.1.2:49152", "tcp:127.0.1.2:49215", "tcp:127.0.0.1:49200"]
    for number, text in enumerate(texts):
        assert everything.allows(parse_target(text))
        Egress(guarded, link, "hostb", "hosta").request(number, text)
        assert link.errors[number].code is Code.TARGET_FORBIDDEN
        assert "is a listen address of mtunnel on hostb itself" in str(link.errors[number])
    assert str(Egress(guarded, link, "hostb", "hosta").admit("tcp:127.0.1.2:49216"))
    assert target.accepted() == 0


async def test_this_daemons_socket_by_another_name_is_not_dialled(link: Requester, tmp: Path) -> None:
    own = Target(tmp / "ingress")
    own.listen()
    os.link(own.path, tmp / "innocent")
    allowed = dataclasses.replace(ANY, own=(UnixAddress(str(own.path)),))
    Egress(allowed, link, "hostb", "hosta").request(1, f"unix:{tmp}/innocent")
    await until(lambda: link.errors, "for the refusal")
    assert link.errors[1].code is Code.TARGET_FORBIDDEN
    assert own.accepted() == 0
    own.close()


@pytest.mark.parametrize("where", ["socket", "directory"])
async def test_symbolic_link_is_refused(link: Requester, tmp: Path, where: str) -> None:
    """The path that is checked must be the socket that is dialled."""
    secret = Target(tmp / "secret" / "sock")
    secret.path.parent.mkdir()
    secret.listen()
    if where == "socket":
        (tmp / "web1").symlink_to(secret.path)
    else:
        (tmp / "web1").symlink_to(secret.path.parent)
    text = f"unix:{tmp}/web1" + ("/sock" if where == "directory" else "")
    Egress(AllowList.parse([f"unix:{tmp}/*", f"unix:{tmp}/*/*"]), link, "hostb", "hosta").request(1, text)
    await until(lambda: link.errors, "for the refusal")
    assert link.errors[1].code is Code.TARGET_FORBIDDEN
    assert f"{tmp}/web1 is a symbolic link" in str(link.errors[1])
    assert secret.accepted() == 0
    secret.close()


@pytest.mark.parametrize(
    ("listening", "words"),
    [
        (
            ["192.0.2.2"],
            r"is open on 192\.0\.2\.2 only: .*migration_address in qemu\.conf .*, to 127\.0\.0\.1$",
        ),
        (["192.0.2.2", "127.0.1.3", "::"], r"is open on 192\.0\.2\.2 and :: only"),
        (["127.0.1.3"], "is QEMU or libvirtd listening there"),
        ([], "is QEMU or libvirtd listening there"),
    ],
)
async def test_qemu_that_listens_on_another_address_is_reported_with_the_setting(
    link: Requester, egress: Egress, monkeypatch: pytest.MonkeyPatch, listening: list[str], words: str
) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        monkeypatch.setattr(module, "FIRST_PAUSE", 2 * module.DEADLINE)  # so there is one attempt
        monkeypatch.setattr(module, "listening_at", lambda asked: listening if asked == port else [])
        egress.request(1, f"tcp:127.0.0.1:{port}")
        await until(lambda: 1 in link.errors)
    said = link.errors[1].reason
    assert link.errors[1].code is Code.TARGET_UNREACHABLE
    assert said.startswith(f"on hostb: cannot connect to tcp:127.0.0.1:{port}: Connection refused; ")
    assert re.search(words, said)


async def test_reasons_are_right_on_both_hosts(link: Requester, egress: Egress, target: Target) -> None:
    """They are logged here and at the peer, where "this host" would be another one."""
    egress.request(1, "tcp:127.0.0.2:1")
    egress.request(2, "nonsense")
    for error in link.errors.values():
        assert "this host" not in error.reason
        assert "the peer" not in error.reason
    assert link.errors[1].reason == "tcp:127.0.0.2:1 is not in the egress list for hosta on hostb"


# Reaching a target.


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_tcp_target_is_dialled_immediately(link: Requester, egress: Egress, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        egress.request(1, str(TcpAddress(host, listener.getsockname()[1])))
        await until(lambda: 1 in link.dialled)
        accepted, _ = listener.accept()
        accepted.close()


async def test_unix_target_is_dialled_immediately(link: Requester, egress: Egress, target: Target) -> None:
    target.listen()
    egress.request(1, target.text)
    await until(lambda: 1 in link.dialled)
    assert target.accepted() == 1


async def test_missing_target_is_retried(link: Requester, egress: Egress, target: Target) -> None:
    egress.request(1, target.text)
    await turns()
    assert link.order == []
    target.listen()
    await until(lambda: 1 in link.dialled)


async def test_unix_target_that_refuses_is_retried(link: Requester, egress: Egress, target: Target) -> None:
    target.leave_stale()
    egress.request(1, target.text)
    await turns()
    assert link.order == []
    target.listen()
    await until(lambda: 1 in link.dialled)


async def test_tcp_target_that_refuses_is_retried(link: Requester, egress: Egress) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        egress.request(1, f"tcp:127.0.0.1:{listener.getsockname()[1]}")
        await turns()
        assert link.order == []
        listener.listen()
        await until(lambda: 1 in link.dialled)


async def test_full_backlog_is_retried(link: Requester, egress: Egress, target: Target) -> None:
    target.listen(backlog=1)
    target.fill()
    egress.request(1, target.text)
    await turns()
    assert link.order == []
    target.accepted()
    await until(lambda: 1 in link.dialled)


@pytest.mark.parametrize("fault", ["missing", "refusing", "busy"])
async def test_deadline_ends_the_retries(
    link: Requester, egress: Egress, target: Target, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEADLINE", 0.1)
    if fault == "refusing":
        target.leave_stale()
    elif fault == "busy":
        target.listen(backlog=0)
        target.fill()
    egress.request(1, target.text)
    await until(lambda: 1 in link.errors)
    assert link.errors[1].code is Code.TARGET_UNREACHABLE
    assert target.text in str(link.errors[1])


async def test_target_that_does_not_answer_times_out(
    link: Requester, egress: Egress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEADLINE", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address):  # fills the backlog: a further SYN gets no reply
            egress.request(1, f"tcp:127.0.0.1:{address[1]}")
            await until(lambda: 1 in link.errors)
    assert link.errors[1].code is Code.TARGET_UNREACHABLE
    assert "timed out after" in str(link.errors[1])


async def test_permanent_error_fails_immediately(link: Requester, egress: Egress, tmp: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wrong_kind:
        wrong_kind.bind(str(tmp / "dgram"))
        before = asyncio.get_running_loop().time()
        egress.request(1, f"unix:{tmp}/dgram")
        await until(lambda: 1 in link.errors)
        assert asyncio.get_running_loop().time() - before < module.DEADLINE
    assert link.errors[1].code is Code.TARGET_UNREACHABLE


async def test_self_connect_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may pick the dialled port as the source port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    class FromThatPort(socket.socket):
        def setblocking(self, flag: bool) -> None:
            super().setblocking(flag)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.bind(("127.0.0.1", port))

    stand_in = SimpleNamespace(**{**vars(socket), "socket": FromThatPort})
    monkeypatch.setattr("tunnel.relay.egress.socket", stand_in)
    monkeypatch.setattr(module, "FIRST_PAUSE", 60.0)  # so that there is one attempt
    with pytest.raises(UnreachableError, match="refused"):
        await dial(TcpAddress("127.0.0.1", port), asyncio.get_running_loop().time() + 30)


# Order.


async def test_streams_of_a_target_arrive_in_the_order_of_their_requests(
    link: Requester, egress: Egress
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        for number in range(1, 20):
            egress.request(number, f"tcp:127.0.0.1:{listener.getsockname()[1]}")
        await turns()
        listener.listen(64)
        await until(lambda: len(link.dialled) == 19)
        assert link.order == list(range(1, 20))
        for number in range(1, 20):
            accepted, caller = listener.accept()
            accepted.close()
            assert caller == link.dialled[number].getsockname()


async def test_slow_target_delays_no_other(link: Requester, egress: Egress, tmp: Path) -> None:
    slow, quick = Target(tmp / "slow"), Target(tmp / "quick")
    quick.listen()
    egress.request(1, slow.text)
    egress.request(2, slow.text)
    egress.request(3, quick.text)
    await until(lambda: link.order == [3])
    slow.listen()
    await until(lambda: link.order == [3, 1, 2])
    slow.close()
    quick.close()


async def test_target_can_be_requested_again(link: Requester, egress: Egress, target: Target) -> None:
    target.listen()
    for number in (1, 3, 5):
        egress.request(number, target.text)
        await until(lambda number=number: number in link.dialled)  # type: ignore[misc]
        await turns()
    assert egress._queues == {}


async def test_failure_lets_the_next_stream_be_dialled(
    link: Requester, egress: Egress, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEADLINE", 0.1)
    egress.request(1, target.text)
    monkeypatch.setattr(module, "DEADLINE", 60.0)
    egress.request(2, target.text)
    await until(lambda: link.order == [1])
    target.listen()
    await until(lambda: link.order == [1, 2])
    assert 2 in link.dialled


async def test_dial_error_has_the_target(tmp: Path) -> None:
    where = UnixAddress(str(tmp / "nobody"))
    with pytest.raises(
        UnreachableError, match=r"cannot connect to .*nobody: No such file .*; is QEMU or libvirtd listening"
    ):
        await dial(where, asyncio.get_running_loop().time())


async def test_refusal_is_reported_although_the_last_attempt_timed_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last attempt ends at the deadline, whatever the result of those before it."""

    async def connect(*_: object) -> socket.socket:
        if not tried:
            tried.append(1)
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        answer: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        return await answer

    tried: list[int] = []
    monkeypatch.setattr(module, "_connect", connect)
    with pytest.raises(UnreachableError, match=r"cannot connect to .*: Connection refused; is QEMU"):
        await dial(TcpAddress("127.0.0.1", 1), asyncio.get_running_loop().time() + 0.1)


async def test_internal_error_refuses_one_stream_and_not_the_next(
    link: Requester, egress: Egress, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> socket.socket:
        monkeypatch.undo()
        raise RuntimeError("odd")

    monkeypatch.setattr(module, "_connect", fail)
    target.listen()
    egress.request(1, target.text)
    egress.request(3, target.text)
    await until(lambda: 3 in link.dialled, "for the second")
    assert (link.errors[1].code, link.order) == (Code.INTERNAL, [1, 3])
