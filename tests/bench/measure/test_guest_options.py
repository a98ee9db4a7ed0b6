"""The command line is parsed into sizes and rates, and each error names its option."""

from __future__ import annotations

from typing import Any

import pytest

from tunnel.bench.measure.convergence import RateSteps
from tunnel.bench.measure.guest_options import MigrateOptions, parse, parse_link
from tunnel.errors import UsageError
from tunnel.units import GIB, MIB


def options(**changes: Any) -> MigrateOptions:
    return parse(**{"memory": "1GiB"} | changes)


def test_lists_become_every_combination() -> None:
    asked = options(memory="1GiB, 4GiB", dirty_rate="0,64MiB", link="none,10Gbit")
    assert [
        (s.guest_bytes // GIB, s.dirty_bytes_per_s // MIB, s.link_bits_per_s) for s in asked.settings
    ] == [
        *((1, 0, None), (1, 64, None), (4, 0, None), (4, 64, None)),
        *((1, 0, 10**10), (1, 64, 10**10), (4, 0, 10**10), (4, 64, 10**10)),
    ]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"memory": "big"}, "--memory: 'big' is not a number with a unit"),
        ({"memory": "16MiB"}, "--memory must be 32MiB to 60GiB, in whole MiB, not 16777216 bytes"),
        ({"memory": "1GiB,64.0001MiB"}, "--memory must be 32MiB to 60GiB, in whole MiB, not 67108969 bytes"),
        ({"dirty_rate": "0,fast"}, "--dirty-rate: 'fast' is not a number"),
        ({"modes": "rdma"}, "unknown mode: rdma"),
        ({"link": "1GiB"}, "--link: '1GiB' is not a bandwidth: use none, 1Gbit or 500Mbit"),
        ({"link": "1Mbit"}, "the minimum is 10Mbit"),
        ({"downtime": "300"}, "--downtime: '300' has no unit"),
        ({"downtime": "0s"}, "--downtime must be above zero"),
        ({"patience": "soon"}, "--patience: 'soon' is not a number"),
        ({"highest": "1KiB"}, "--highest must be at least 1MiB, not 1024 bytes"),
    ],
)
def test_an_error_names_its_option(changes: dict[str, str], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        options(**changes)


def test_links_are_parsed() -> None:
    assert [parse_link(text) for text in ("none", "1Gbit", "2.5Gbit", "100Mbit")] == [
        *(None, 10**9, 25 * 10**8, 10**8),
    ]


def test_the_timeout_depends_on_the_time_of_a_pass() -> None:
    asked = options()
    assert asked.patience_of(GIB, None).seconds < asked.patience_of(8 * GIB, None).seconds
    pass_at_1gbit = GIB / (10**9 / 8)
    assert asked.patience_of(GIB, 10**9).seconds > 5 * pass_at_1gbit
    assert options(patience="7s").patience_of(8 * GIB, 10**9).seconds == 7.0


def test_a_search_is_limited_by_its_link() -> None:
    asked = options(highest="1GiB", steps=32)
    assert asked.grid(None) == RateSteps(32 * MIB, GIB)
    shaped = asked.grid(10**9)
    assert shaped.highest == 125_000_000
    assert shaped.step % 4096 == 0
    assert 31 <= shaped.size <= 32


def test_the_record_has_the_parsed_options() -> None:
    record = options(modes="mtunnel,native", link="none,1Gbit").as_record()
    assert record["modes"] == ["mtunnel", "native"]
    assert record["links"] == (None, 10**9)
    assert (record["downtime"], record["downtime_tolerance"], record["passes"]) == (0.3, 1.5, 20)


def test_a_machine_that_is_too_small_is_refused_with_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 5 * GIB

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    options(memory="2GiB").check_machine()
    with pytest.raises(
        UsageError, match=r"--memory 4GiB needs 9.0 GiB for .*; this machine has 5.0 GiB avail"
    ):
        options(memory="1GiB,4GiB").check_machine()
