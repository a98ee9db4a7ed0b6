"""A real guest fills, ticks and verifies; damage is reported page by page."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.guests import filled_memory, filled_state
from tunnel.errors import HypervisorError, VerificationError
from tunnel.proof.pattern_guest import (
    PAGE,
    STATE_ADDRESS,
    GuestPhase,
    GuestState,
    Region,
    Workload,
    build_image,
)
from tunnel.proof.qemu import Machine, Qemu
from tunnel.proof.verify import read_state, verify_guest, verify_memory, wait_filled, wait_heartbeat
from tunnel.units import MIB
from tunnel.virt.polling import until
from tunnel.virt.qmp import Monitor

SMALL = Workload(working_set=4 * MIB, dirty_rate=16 * MIB)


def machine(directory: Path, workload: Workload, model: str = "pc", memory: int = 64 * MIB) -> Machine:
    kernel = directory / "kernel"
    kernel.write_bytes(build_image(workload))
    return Machine(kernel, memory, model=model)


def files_in(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def flip_bit(file: Path, offset: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        byte = opened.read(1)[0]
        opened.seek(offset)
        opened.write(bytes([byte ^ 0x10]))


async def wait_dirtied(qemu: Qemu, directory: Path, increments: int) -> GuestState:
    async def reached() -> GuestState | None:
        state = await read_state(qemu.monitor, directory)
        return state if state.dirtied >= increments else None

    return await until(reached, within=30, every=0.02)


@pytest.mark.parametrize("model", ["pc", "q35", "pc,max-ram-below-4g=32M"])
async def test_guest_fills_and_dirties_all_its_memory(tmp: Path, model: str) -> None:
    async with await Qemu.start("guest", machine(tmp, SMALL, model), tmp) as qemu:
        filled = await wait_filled(qemu.monitor, tmp, within=30)
        assert filled.filled * PAGE > 60 * MIB
        assert any(region.start >= 1 << 32 for region in filled.regions) == ("below-4g" in model)
        await wait_dirtied(qemu, tmp, 3 * filled.working_set + 7)
        await qemu.monitor.execute("stop")
        seen: list[tuple[int, int]] = []
        verified = await verify_memory(
            qemu.monitor, tmp, filled, lambda done, total: seen.append((done, total))
        )
    assert verified.pages == verified.state.filled == filled.filled
    assert verified.state.passes >= 3
    assert seen[-1] == (verified.pages, verified.pages)


async def test_working_set_may_span_regions(tmp: Path) -> None:
    workload = Workload(working_set=1 << 40, dirty_rate=None)  # all memory
    async with await Qemu.start("guest", machine(tmp, workload, "pc,max-ram-below-4g=32M"), tmp) as qemu:
        filled = await wait_filled(qemu.monitor, tmp, within=30)
        assert filled.working_set == filled.filled
        await wait_dirtied(qemu, tmp, filled.filled * 2)
        await qemu.monitor.execute("stop")
        verified = await verify_memory(qemu.monitor, tmp, filled)
    assert verified.state.passes >= 2


async def test_idle_guest_only_ticks(tmp: Path) -> None:
    async with await Qemu.start("guest", machine(tmp, Workload(dirty_rate=0)), tmp) as qemu:
        filled = await wait_filled(qemu.monitor, tmp, within=30)
        later = await wait_heartbeat(qemu.monitor, tmp, filled, within=10)
    assert later.dirtied == later.working_set == 0


async def test_stopped_guest_has_no_heartbeat(tmp: Path) -> None:
    async with await Qemu.start("guest", machine(tmp, SMALL), tmp) as qemu:
        await wait_filled(qemu.monitor, tmp, within=30)
        await qemu.monitor.execute("stop")
        stopped = await read_state(qemu.monitor, tmp)
        with pytest.raises(HypervisorError, match=r"no heartbeat of the guest for 0\.2 s"):
            await wait_heartbeat(qemu.monitor, tmp, stopped, within=0.2)


async def test_running_guest_is_not_verified(tmp: Path) -> None:
    async with await Qemu.start("guest", machine(tmp, SMALL), tmp) as qemu:
        filled = await wait_filled(qemu.monitor, tmp, within=30)
        with pytest.raises(HypervisorError, match="stop the guest"):
            await verify_memory(qemu.monitor, tmp, filled)


@pytest.mark.parametrize("wake", [None, True, False])
@pytest.mark.parametrize("paused", [False, True])
async def test_guest_is_stopped_for_the_comparison_and_then_resumed_as_requested(
    tmp: Path, paused: bool, wake: bool | None
) -> None:
    held = list[Path]()
    async with await Qemu.start("guest", machine(tmp, SMALL), tmp) as qemu:
        filled = await wait_filled(qemu.monitor, tmp, within=30)
        if paused:
            await qemu.monitor.execute("stop")
        verified = await verify_guest(qemu.monitor, tmp, filled, wake=wake, held=lambda: held.append(tmp))
        running = not paused if wake is None else wake
        assert await qemu.monitor.status() == ("running" if running else "paused")
    assert verified.pages == filled.filled
    assert held == [tmp]


async def test_guest_that_never_fills_is_reported(tmp: Path) -> None:
    async with await Qemu.start("guest", machine(tmp, SMALL), tmp, incoming="defer") as qemu:
        with pytest.raises(HypervisorError, match=r"did not fill its memory in 0\.2 s"):
            await wait_filled(qemu.monitor, tmp, within=0.2)


async def test_one_flipped_bit_in_a_real_guest_is_found(tmp: Path) -> None:
    memory = tmp / "memory"
    backend = f"memory-backend-file,id=ram,size=64M,mem-path={memory},share=on"
    hardware = dataclasses.replace(
        machine(tmp, SMALL), extra=("-object", backend, "-machine", "memory-backend=ram")
    )
    async with await Qemu.start("guest", hardware, tmp) as qemu:
        filled = await wait_filled(qemu.monitor, tmp, within=30)
        await qemu.monitor.execute("stop")
        flip_bit(memory, 0x2345678)
        with pytest.raises(VerificationError, match=r"(?s)^1 of .*page 0x2345000: word at \+0x678"):
            await verify_memory(qemu.monitor, tmp, filled)


# -- a fake monitor with generated memory --------------------------------------------------------------------

REGION = Region(2 * MIB, 12 * MIB)
STATE = filled_state(REGION, working_set=64, dirtied=200)


class FakeMonitor(Monitor):
    def __init__(self, state: GuestState, memory: bytearray) -> None:
        self.name = "guest"
        self._state = state
        self._memory = memory

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        if command == "query-status":
            return {"status": "paused"}
        assert command == "pmemsave"
        assert arguments is not None
        self._save(int(str(arguments["val"])), int(str(arguments["size"])), Path(str(arguments["filename"])))
        return {}

    def _save(self, address: int, size: int, file: Path) -> None:
        start = address - REGION.start
        file.write_bytes(self._block() if address == STATE_ADDRESS else self._memory[start : start + size])

    def _block(self) -> bytes:
        state = self._state
        numbers = (state.filled, state.working_set, state.dirtied, state.ticks, state.tag, 0)
        head = b"MTGSTATE" + state.phase.to_bytes(4, "little") + len(state.regions).to_bytes(4, "little")
        words = [*numbers, *(edge for region in state.regions for edge in (region.start, region.end))]
        return (head + b"".join(word.to_bytes(8, "little") for word in words)).ljust(PAGE, b"\0")


async def test_first_bad_pages_are_named_and_the_rest_counted(tmp: Path) -> None:
    memory = filled_memory(STATE, REGION)
    for page in range(100, 108):
        memory[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    with pytest.raises(VerificationError) as failure:
        await verify_memory(FakeMonitor(STATE, memory), tmp, STATE)
    head, *pages = str(failure.value).splitlines()
    assert head == "8 of the 2560 pages compared are wrong (2560 in all, pass 3, cursor 8):"
    assert pages[0] == "  page 0x264000: word at +0x8 is 0x0000000000000000, expected 0x4d54000000264008"
    assert (len(pages), pages[-1]) == (6, "  … and 3 more")


async def test_untouched_memory_verifies_and_leaves_no_file(tmp: Path) -> None:
    verified = await verify_memory(FakeMonitor(STATE, filled_memory(STATE, REGION)), tmp, STATE)
    assert verified.pages == 2560
    assert files_in(tmp) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"phase": GuestPhase.BOOTED}, "has not filled its memory yet"),
        ({"ticks": STATE.ticks - 1}, "counters went backwards"),
        ({"dirtied": STATE.dirtied - 1}, "counters went backwards"),
        ({"tag": 5 << 48}, "a different guest"),
        ({"working_set": 65}, "a different guest"),
    ],
)
async def test_state_that_does_not_follow_the_earlier_one_is_refused(
    tmp: Path, change: dict[str, Any], complaint: str
) -> None:
    now = dataclasses.replace(STATE, **change)
    with pytest.raises(VerificationError, match=complaint):
        await verify_memory(FakeMonitor(now, filled_memory(STATE, REGION)), tmp, STATE)


async def test_missing_memory_dump_is_reported(tmp: Path) -> None:
    with pytest.raises(HypervisorError, match="cannot read the memory that QEMU wrote to"):
        await verify_memory(FakeMonitor(STATE, bytearray()), tmp, STATE)
