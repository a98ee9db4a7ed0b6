"""The port behind a redirect is a privileged one, which no user can bind."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.users import NOBODY, acting_as
from tunnel.errors import UsageError
from tunnel.host import privileges, reserved_ports
from tunnel.host.reserved_ports import bind_reserved, is_reserved, unavailable_reason


@pytest.fixture
def start(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replaces net.ipv4.ip_unprivileged_port_start."""
    file = tmp / "start"
    file.write_text("1024\n")
    monkeypatch.setattr(reserved_ports, "_START", file)
    return file


@pytest.mark.root
@pytest.mark.usefixtures("network")
def test_no_user_can_bind_the_port_again() -> None:
    listener = bind_reserved("127.0.0.1")
    address = listener.getsockname()
    assert is_reserved(address[1])
    listener.close()
    with acting_as(NOBODY), pytest.raises(PermissionError):
        socket.create_server(address)


@pytest.mark.root
@pytest.mark.usefixtures("network")
def test_ports_in_use_are_skipped() -> None:
    with ExitStack() as stack:
        found = [stack.enter_context(bind_reserved("127.0.0.1")).getsockname()[1] for _ in range(100)]
    assert len(set(found)) == 100
    assert max(found) < 1024


@pytest.mark.root
@pytest.mark.usefixtures("network")
def test_every_port_in_use_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserved_ports, "_candidates", lambda: iter([1002, 1003]))
    with (
        bind_reserved("127.0.0.1"),
        bind_reserved("127.0.0.1"),
        pytest.raises(UsageError, match="all privileged ports are in use"),
    ):
        bind_reserved("127.0.0.1")


def test_only_ports_below_the_start_are_tried(start: Path) -> None:
    assert min(reserved_ports._candidates()) >= 512
    start.write_text("600\n")
    assert max(reserved_ports._candidates()) < 600
    assert not is_reserved(600)


def test_ports_of_services_are_not_used(start: Path) -> None:
    assert socket.getservbyname("ldaps") == 636
    assert 636 not in set(reserved_ports._candidates())


def test_without_privileged_ports_there_is_none(start: Path) -> None:
    start.write_text("0\n")
    assert "ip_unprivileged_port_start is 0" in str(unavailable_reason())
    with pytest.raises(UsageError, match="any user could take over the redirect"):
        bind_reserved("127.0.0.1")


def test_an_old_kernel_has_the_default(start: Path) -> None:
    start.unlink()
    assert is_reserved(1023)
    assert not is_reserved(1024)


def test_the_capability_is_required(start: Path, tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "_PROCESS_STATUS", tmp / "status")
    (tmp / "status").write_text("CapEff:\t0000000000001000\n")
    with pytest.raises(UsageError, match="needs the capability CAP_NET_BIND_SERVICE"):
        bind_reserved("127.0.0.1")


@pytest.mark.root
@pytest.mark.usefixtures("network")
def test_another_error_ends_the_search() -> None:
    with pytest.raises(UsageError, match="this host has no such address"):
        bind_reserved("192.0.2.1")
