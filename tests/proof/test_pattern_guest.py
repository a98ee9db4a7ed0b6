"""The shipped image, its workload, and the state block."""

from __future__ import annotations

import struct
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from tunnel.errors import VerificationError
from tunnel.proof.pattern_guest import (
    PAGE,
    GuestPhase,
    GuestState,
    Region,
    Workload,
    build_image,
    parse_state,
)
from tunnel.units import MIB

SOURCE = Path(str(files("tunnel.proof"))) / "guest.asm"
SHIPPED = SOURCE.with_suffix(".bin").read_bytes()


def state_block(
    magic: bytes = b"MTGSTATE",
    phase: int = 2,
    filled: int = 768,
    working_set: int = 16,
    tag: int = 7 << 48,
    regions: tuple[tuple[int, int], ...] = ((2 * MIB, 4 * MIB), (1 << 32, (1 << 32) + MIB)),
) -> bytes:
    head = struct.pack("<8sIIQQQQQ8x", magic, phase, len(regions), filled, working_set, 37, 1234, tag)
    table = b"".join(struct.pack("<QQ", *region) for region in regions)
    return (head + table).ljust(PAGE, b"\0")


def parameters(image: bytes) -> tuple[int, ...]:
    return struct.unpack_from("<QQQ", image, image.index(b"MTGPARAM") + 8)


def test_shipped_image_is_assembled_from_the_source(tmp: Path) -> None:
    made = tmp / "guest.bin"
    # Ignored: warnings unknown to some releases of nasm, and relocations, which -f bin always has.
    warnings = ("-Wall", "-Werror", "-w-unknown-warning", "-w-reloc-abs")
    subprocess.run(["nasm", *warnings, "-f", "bin", "-o", made, SOURCE], check=True, timeout=30)
    assert made.read_bytes() == SHIPPED


def test_image_is_a_multiboot_kernel_with_addresses() -> None:
    magic, flags, checksum, header, load, load_end, bss_end, entry = struct.unpack_from("<8I", SHIPPED)
    assert (magic + flags + checksum) % (1 << 32) == 0
    assert magic == 0x1BADB002
    assert flags & 1 << 16
    assert header == load == 0x100000
    assert load_end - load == len(SHIPPED)
    assert load < entry < load_end < bss_end <= 2 * MIB


def test_workload_is_patched_in_pages_and_nothing_else_changes() -> None:
    image = build_image(Workload(working_set=8 * MIB, dirty_rate=50 * MIB, seed=9))
    assert parameters(image) == (8 * MIB // PAGE, 50 * MIB // PAGE, 9 << 48)
    differing = [at for at, (new, old) in enumerate(zip(image, SHIPPED, strict=True)) if new != old]
    block = image.index(b"MTGPARAM") + 8
    assert all(block <= at < block + 24 for at in differing)


@pytest.mark.parametrize(
    ("rate", "patched"),
    [(0, (0, 0)), (PAGE - 1, (0, 0)), (PAGE, (256, 1)), (None, (256, (1 << 64) - 1))],
)
def test_rate_zero_dirties_nothing_and_none_is_full_speed(rate: int | None, patched: tuple[int, int]) -> None:
    assert parameters(build_image(Workload(working_set=MIB, dirty_rate=rate)))[:2] == patched


def test_state_block_is_parsed() -> None:
    assert parse_state(state_block()) == GuestState(
        phase=GuestPhase.FILLED,
        filled=768,
        working_set=16,
        dirtied=37,
        ticks=1234,
        tag=7 << 48,
        regions=(Region(2 * MIB, 4 * MIB), Region(1 << 32, (1 << 32) + MIB)),
    )


def test_pass_and_cursor_follow_from_the_increments() -> None:
    state = parse_state(state_block())
    assert (state.passes, state.cursor) == (2, 5)
    idle = parse_state(state_block(working_set=0))
    assert (idle.passes, idle.cursor) == (0, 0)


def test_slices_cover_every_region_once_and_never_cross_one() -> None:
    slices = list(parse_state(state_block()).slices(3 * MIB // 2))
    assert slices == [(2 * MIB, 3 * MIB // 2), (7 * MIB // 2, MIB // 2), (1 << 32, MIB)]


@pytest.mark.parametrize(
    "block",
    [
        state_block(magic=bytes(8)),
        state_block(phase=3),
        state_block(filled=767),
        state_block(working_set=769),
        state_block(tag=(7 << 48) + 1),
        state_block(regions=((MIB, 4 * MIB),)),
        state_block(regions=((2 * MIB, 2 * MIB + 5),)),
        state_block(regions=((4 * MIB, 2 * MIB),)),
        state_block(regions=((2 * MIB, 4 * MIB),) * 17),
        bytes(PAGE),
    ],
)
def test_damaged_state_block_is_refused(block: bytes) -> None:
    with pytest.raises(VerificationError):
        parse_state(block)


def test_guest_that_is_filling_has_fewer_pages_than_its_regions() -> None:
    assert parse_state(state_block(phase=1, filled=3, working_set=0)).filled == 3
