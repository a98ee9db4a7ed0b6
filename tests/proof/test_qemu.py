"""QEMU starts and leaves nothing behind; errors include its output."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.guests import small_machine
from tunnel.errors import HypervisorError, UsageError
from tunnel.proof.pattern_guest import SERIAL_READY
from tunnel.proof.qemu import Qemu
from tunnel.virt.polling import until


async def test_guest_reports_progress_on_its_serial_port(qemu: Qemu) -> None:
    await until(lambda: qemu.serial.read_bytes() == SERIAL_READY, within=30, every=0.02)


async def test_waiting_qemu_runs_no_guest(tmp: Path) -> None:
    async with await Qemu.start("guest", small_machine(tmp), tmp, incoming="defer") as waiting:
        assert await waiting.monitor.status() == "inmigrate"


async def test_stop_reaps_and_may_be_repeated(qemu: Qemu) -> None:
    await qemu.stop()
    assert not qemu.child.running
    await qemu.stop()


async def test_failed_start_includes_the_output_of_qemu(tmp: Path) -> None:
    with pytest.raises(HypervisorError, match=r"guest: QEMU exited with 1: .*no-such-device"):
        await Qemu.start("guest", small_machine(tmp, "-device", "no-such-device"), tmp)


async def test_cancelled_start_leaves_no_process(tmp: Path) -> None:
    starting = asyncio.create_task(Qemu.start("guest", small_machine(tmp), tmp))
    await until((tmp / "guest.log").exists, within=10, every=0.001)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


async def test_missing_qemu_has_install_instructions(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp))
    with pytest.raises(UsageError, match="apt install qemu-system-x86"):
        await Qemu.start("guest", small_machine(tmp), tmp)
