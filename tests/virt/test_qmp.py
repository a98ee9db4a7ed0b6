"""The monitor: commands, events, and which error each way of failing becomes."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import pytest

from tunnel.errors import HypervisorError, UsageError
from tunnel.virt.qemu import Qemu
from tunnel.virt.qmp import Monitor, MonitorLost, require_library


async def test_missing_library_says_how_to_install_it(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qemu.qmp", None)
    with pytest.raises(UsageError, match=r"pip install .*\[qemu\]"):
        await Monitor.connect(tmp / "qmp", "guest")


async def test_nobody_at_the_socket_is_told_with_its_path(tmp: Path) -> None:
    with pytest.raises(HypervisorError, match=rf"guest: no QMP answer from {tmp}/qmp in 0.1 s"):
        await Monitor.connect(tmp / "qmp", "guest", within=0.1)


async def test_monitor_that_another_client_holds_is_told(tmp: Path, qemu: Qemu) -> None:
    with pytest.raises(HypervisorError, match="is another client connected"):
        await Monitor.connect(tmp / "guest.qmp", "second", within=0.3)
    assert await qemu.monitor.status() == "running"


GREETING = b'{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}}\r\n'


@pytest.mark.parametrize("said", [b"", GREETING[:20], GREETING], ids=["nothing", "half", "a greeting"])
@pytest.mark.parametrize("cancelled", [False, True], ids=["time is up", "cancelled"])
async def test_silent_one_is_hung_up_on(tmp: Path, said: bytes, cancelled: bool) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp / "qmp"))
        silent.listen()
        silent.setblocking(False)
        connecting = asyncio.create_task(Monitor.connect(tmp / "qmp", "guest", within=60 if cancelled else 1))
        called, _ = await asyncio.wait_for(loop.sock_accept(silent), 10)
        with called:
            await loop.sock_sendall(called, said)
            if cancelled:
                connecting.cancel()
            with pytest.raises((HypervisorError, asyncio.CancelledError)):
                await connecting
            while await asyncio.wait_for(loop.sock_recv(called, 1000), 10):
                pass  # what it was told before the end


async def test_refused_command_carries_the_words_of_qemu(qemu: Qemu) -> None:
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


async def test_second_monitor_is_told_that_the_first_holds_the_socket(qemu: Qemu, tmp: Path) -> None:
    with pytest.raises(HypervisorError, match="second: no QMP answer"):
        await Monitor.connect(tmp / "guest.qmp", "second", within=0.2)


def test_library_that_is_installed_is_enough() -> None:
    require_library()
