"""What is computed from a migration, and how its setting reads."""

from __future__ import annotations

from dataclasses import asdict

from tunnel.bench.figures import GIB, MIB
from tunnel.bench.migration import Migration, Setting, link_text

MOVED = Migration(
    mode="mtunnel",
    round=1,
    guest_bytes=4 * GIB,
    dirty_bytes_per_s=100 * MIB,
    link_bits_per_s=10_000_000_000,
    seconds=4.0,
    bytes=2 * GIB,
    downtime_seconds=0.2,
    iterations=3,
    converged=True,
    cpu_seconds={"a": {"qemu": 2.0, "mtunnel": 1.0}, "b": {"qemu": 1.0}},
)


def test_figures_are_per_second_and_per_gib() -> None:
    assert MOVED.mib_per_s == 512.0
    assert (MOVED.cpu_per_gib("a"), MOVED.cpu_per_gib("b")) == (1.5, 0.5)


def test_a_setting_reads_as_words() -> None:
    assert str(MOVED.setting) == "4 GiB guest, writing 100 MiB/s, link of 10 Gbit/s"
    assert str(Setting(GIB // 2, 0, None)) == "0.5 GiB guest, idle, unshaped link"
    assert link_text(2_500_000_000) == "link of 2.5 Gbit/s"


def test_a_record_is_its_fields() -> None:
    assert Migration(**asdict(MOVED)) == MOVED
