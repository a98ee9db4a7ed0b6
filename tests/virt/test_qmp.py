"""The monitor: commands, events, and the error of each failure."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.support.guests import small_machine
from tunnel.errors import HypervisorError, UnreachableError, UsageError
from tunnel.proof.qemu import Qemu
from tunnel.virt.qmp import COMMAND_PATIENCE, Monitor, MonitorLost, require_library


async def test_missing_library_has_install_instructions(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qemu.qmp", None)
    with pytest.raises(UsageError, match=r"pip install .*\[qemu\]"):
        await Monitor.connect(tmp / "qmp", "guest")


async def test_missing_socket_is_reported_with_its_path(tmp: Path) -> None:
    with pytest.raises(HypervisorError, match=rf"guest: timed out after 0\.1 s waiting for QMP at {tmp}/qmp"):
        await Monitor.connect(tmp / "qmp", "guest", within=0.1)


async def test_busy_monitor_is_reported(tmp: Path, qemu: Qemu) -> None:
    with pytest.raises(HypervisorError, match="is another client connected"):
        await Monitor.connect(tmp / "guest.qmp", "second", within=0.3)
    assert await qemu.monitor.status() == "running"


GREETING = b'{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}}\r\n'


@pytest.mark.parametrize("sent", [b"", GREETING[:20], GREETING], ids=["nothing", "half", "a greeting"])
@pytest.mark.parametrize("cancelled", [False, True], ids=["timeout", "cancelled"])
async def test_connection_without_a_greeting_is_closed(tmp: Path, sent: bytes, cancelled: bool) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp / "qmp"))
        silent.listen()
        silent.setblocking(False)
        connecting = asyncio.create_task(Monitor.connect(tmp / "qmp", "guest", within=60 if cancelled else 1))
        called, _ = await asyncio.wait_for(loop.sock_accept(silent), 10)
        with called:
            await loop.sock_sendall(called, sent)
            if cancelled:
                connecting.cancel()
            with pytest.raises((HypervisorError, asyncio.CancelledError)):
                await connecting
            while await asyncio.wait_for(loop.sock_recv(called, 1000), 10):
                pass  # sent before the close


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "No such file or directory"),
        ("missing/below", "No such file or directory"),
        ("file", "not a socket"),
        ("file/below", "Not a directory"),
        ("", "not a socket"),
        ("x" * 300, "File name too long"),
    ],
)
async def test_path_without_a_socket_is_unreachable_immediately(tmp: Path, name: str, reason: str) -> None:
    (tmp / "file").touch()
    with pytest.raises(UnreachableError, match=rf"source: cannot connect to QEMU at .*: {reason}"):
        await asyncio.wait_for(Monitor.reach(tmp / name, "source", within=3600), 10)


async def test_path_that_is_too_long_is_unreachable_immediately(tmp: Path) -> None:
    deep = tmp / ("x" * 100)
    deep.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp / "qmp"))
        (tmp / "qmp").rename(deep / "qmp")
        with pytest.raises(UnreachableError, match="more than 107 bytes"):
            await asyncio.wait_for(Monitor.reach(deep / "qmp", "source", within=3600), 10)


async def test_socket_without_a_listener_times_out(tmp: Path) -> None:
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(str(tmp / "qmp"))
    with pytest.raises(UnreachableError, match=r"source: timed out after 0\.1 s waiting for QMP at "):
        await Monitor.reach(tmp / "qmp", "source", within=0.1)


async def test_socket_of_a_qemu_is_connected(tmp: Path) -> None:
    second = f"unix:{tmp}/second,server=on,wait=off"
    async with (
        await Qemu.start("guest", small_machine(tmp, "-qmp", second), tmp),
        await Monitor.reach(tmp / "second", "source") as monitor,
    ):
        assert await monitor.status() == "running"
        assert monitor.patience == COMMAND_PATIENCE


async def test_command_to_a_stopped_qemu_times_out(qemu: Qemu) -> None:
    os.kill(qemu.child.pid, signal.SIGSTOP)
    qemu.monitor.patience = 0.1
    with pytest.raises(
        UnreachableError, match=r"guest: timed out after 0\.1 s waiting for a reply to query-status: is QEMU"
    ):
        await qemu.monitor.status()
    os.kill(qemu.child.pid, signal.SIGCONT)
    qemu.monitor.patience = None
    assert await qemu.monitor.status() == "running"


async def test_ended_qemu_and_closed_monitor_are_distinguished(qemu: Qemu) -> None:
    await qemu.monitor.close()
    assert not await qemu.monitor.ended(within=0.1)
    await qemu.child.stop()
    assert await qemu.monitor.ended()


async def test_refused_command_has_the_error_text_of_qemu(qemu: Qemu) -> None:
    with pytest.raises(HypervisorError, match="guest: QEMU refused device_del: Device 'x' not found"):
        await qemu.monitor.execute("device_del", {"id": "x"})


async def test_events_are_queued_from_the_moment_of_listening(qemu: Qemu) -> None:
    with qemu.monitor.listen("STOP") as events:
        await qemu.monitor.execute("stop")
        event = await asyncio.wait_for(events.get(), 10)
    assert event["event"] == "STOP"
    assert await qemu.monitor.status() == "paused"


async def test_monitor_of_an_ended_qemu_is_lost(qemu: Qemu) -> None:
    qemu.child.kill()
    with pytest.raises(MonitorLost, match="guest: QEMU's monitor closed during query-status"):
        await qemu.monitor.status()


async def test_closed_monitor_is_lost_and_may_be_closed_again(qemu: Qemu) -> None:
    await qemu.monitor.close()
    with pytest.raises(MonitorLost):
        await qemu.monitor.status()
    await qemu.monitor.close()


async def test_second_monitor_on_a_socket_times_out(qemu: Qemu, tmp: Path) -> None:
    with pytest.raises(HypervisorError, match=r"second: timed out after 0\.2 s waiting for QMP"):
        await Monitor.connect(tmp / "guest.qmp", "second", within=0.2)


def test_installed_library_passes() -> None:
    require_library()
