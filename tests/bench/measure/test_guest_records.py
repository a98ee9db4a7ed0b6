"""Figures computed from a migration, and its setting as text."""

from __future__ import annotations

from dataclasses import asdict, replace

from tunnel.bench.measure.guest_records import TOLERANCE, Convergence, MeasuredMigration, Setting, link_text
from tunnel.units import GIB, MIB

MOVED = MeasuredMigration(
    mode="mtunnel",
    round=1,
    guest_bytes=GIB,
    dirty_bytes_per_s=100 * MIB,
    link_bits_per_s=10_000_000_000,
    seconds=4.0,
    wall_seconds=6.0,
    bytes=2 * GIB,
    stream_bytes_per_s=600 * MIB,
    downtime_seconds=0.2,
    iterations=3,
    written_bytes_per_s=90 * MIB,
    converged=True,
    aborted="",
    pages_verified=1000,
    cpu_seconds={"a": {"qemu": 2.0, "mtunnel": 1.0}, "b": {"qemu": 1.0}},
)
LIMIT = Convergence("mtunnel", 1, GIB, None, 0.3, 90 * MIB, 96 * MIB, 32 * MIB, 256 * MIB, probes=3)


def test_figures_are_per_second_and_per_gib() -> None:
    assert MOVED.mib_per_s == 512.0
    assert (MOVED.cpu_per_gib("a"), MOVED.cpu_per_gib("b")) == (1.5, 0.5)
    assert (MOVED.cpu_per_gib("a", "mtunnel"), MOVED.cpu_per_gib("b", "mtunnel")) == (0.5, 0.0)
    assert MOVED.sent_per_byte == 2.0


def test_a_longer_downtime_is_not_within_the_limit() -> None:
    limit = 0.3
    assert MOVED.is_within(limit)
    assert replace(MOVED, downtime_seconds=TOLERANCE * limit).is_within(limit)
    assert not replace(MOVED, downtime_seconds=TOLERANCE * limit + 0.001).is_within(limit)
    assert not replace(MOVED, downtime_seconds=None).is_within(limit)
    assert not replace(MOVED, converged=False).is_within(limit)


def test_a_limit_is_open_when_the_next_rate_was_not_tried() -> None:
    assert not LIMIT.is_open
    assert replace(LIMIT, asked_bytes_per_s=256 * MIB).is_open
    assert not replace(LIMIT, asked_bytes_per_s=224 * MIB).is_open
    assert not replace(LIMIT, asked_bytes_per_s=0).is_open


def test_a_setting_as_text() -> None:
    assert str(MOVED.setting) == "1 GiB guest, writing 100 MiB/s, link of 10 Gbit/s"
    assert str(Setting(GIB // 2, 0, None)) == "0.5 GiB guest, idle, unshaped link"
    assert link_text(2_500_000_000) == "link of 2.5 Gbit/s"


def test_a_record_is_its_fields() -> None:
    assert MeasuredMigration(**asdict(MOVED)) == MOVED
