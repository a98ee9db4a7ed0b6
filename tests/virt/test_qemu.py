"""QEMU starts, speaks QMP, and leaves nothing behind; its failures arrive in its own words."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tunnel.errors import HypervisorError, UsageError
from tunnel.virt.guest import MIB, SERIAL_READY, Workload, build_image
from tunnel.virt.polling import until
from tunnel.virt.qemu import Machine, Qemu
from tunnel.virt.qmp import Monitor, MonitorLost


def machine(directory: Path, *extra: str) -> Machine:
    kernel = directory / "kernel"
    kernel.write_bytes(build_image(Workload()))
    return Machine(kernel, 16 * MIB, extra=extra)


@pytest.fixture
async def qemu(tmp: Path) -> AsyncIterator[Qemu]:
    async with await Qemu.start("guest", machine(tmp), tmp) as started:
        yield started


async def test_guest_says_on_its_serial_port_how_far_it_is(qemu: Qemu) -> None:
    async def ready() -> bool | None:
        return qemu.serial.read_bytes() == SERIAL_READY or None

    await until(ready, within=30, every=0.02)


async def test_waiting_qemu_runs_no_guest(tmp: Path) -> None:
    async with await Qemu.start("guest", machine(tmp), tmp, incoming="defer") as waiting:
        assert await waiting.monitor.status() == "inmigrate"


async def test_stop_reaps_and_may_be_repeated(qemu: Qemu) -> None:
    await qemu.stop()
    assert not qemu.child.running
    await qemu.stop()


async def test_qemu_that_does_not_start_says_why(tmp: Path) -> None:
    with pytest.raises(HypervisorError, match=r"guest: QEMU ended with 1: .*no-such-device"):
        await Qemu.start("guest", machine(tmp, "-device", "no-such-device"), tmp)


async def test_cancelled_start_leaves_no_process(tmp: Path) -> None:
    starting = asyncio.create_task(Qemu.start("guest", machine(tmp), tmp))

    async def spawned() -> bool | None:
        return (tmp / "guest.log").exists() or None

    await until(spawned, within=10, every=0.001)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


async def test_missing_qemu_says_how_to_install_it(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp))
    with pytest.raises(UsageError, match="apt install qemu-system-x86"):
        await Qemu.start("guest", machine(tmp), tmp)


async def test_missing_library_says_how_to_install_it(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qemu.qmp", None)
    with pytest.raises(UsageError, match=r"pip install 'mtunnel\[qemu\]'"):
        await Monitor.connect(tmp / "qmp", "guest")


async def test_nobody_at_the_socket_is_told_with_its_path(tmp: Path) -> None:
    with pytest.raises(HypervisorError, match=rf"guest: no QMP answer from {tmp}/qmp in 0.1 s"):
        await Monitor.connect(tmp / "qmp", "guest", within=0.1)


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
