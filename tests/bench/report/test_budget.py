"""The rows of the budget: their figures, and rows whose rival did not run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench import samples
from tunnel.bench.report import budget
from tunnel.bench.report.reached import Reached
from tunnel.bench.report.result_file import ResultFile, read
from tunnel.units import MIB

HAPROXY = '"name": "haproxy-tuned", "settings": "nbthread 1; tune.bufsize 262144", '


def _relay(tmp: Path, version: str, openssl: str = "OpenSSL 3.0.19") -> ResultFile:
    """Return a file of ``bench relay`` with these versions of HAProxy and of Python's OpenSSL."""
    path = samples.relay(tmp)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[0]["machine"]["openssl"] = openssl
    for record in records:
        if record["kind"] == "contestant" and record["name"] == "haproxy-tuned":
            record |= {"version": version}
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    (file,) = read(path)
    return file


def _rows(
    reached: Callable[[ResultFile | None], object], file: ResultFile | None = None
) -> dict[str, Reached]:
    rows = list(reached(file))  # type: ignore[call-overload]
    assert len({row.what for row in rows}) == len(rows)
    return {row.what: row for row in rows}


@pytest.mark.parametrize(
    ("version", "openssl", "expected"),
    [
        ("HAProxy version 2.6.12, running on OpenSSL 3.0.19 27 Jan 2026", "OpenSSL 3.5.9", (3, 0)),
        ("HAProxy version 3.2.5, running on OpenSSL 3.6.5 29 Sep 2026", "OpenSSL 3.0.19", (3, 6)),
        ("HAProxy version 3.0.11", "OpenSSL 3.5.9 29 Sep 2026", (3, 5)),
        ("HAProxy version 3.2.5, running on AWS-LC 1.61.0", "OpenSSL 3.5.9", None),
    ],
)
def test_the_openssl_of_haproxy_is_its_own_or_that_of_the_system(
    tmp: Path, version: str, openssl: str, expected: tuple[int, int] | None
) -> None:
    assert budget.openssl_of(_relay(tmp, version, openssl)) == expected


@pytest.mark.parametrize(
    ("version", "ours", "theirs"),
    [
        ("HAProxy version 2.6.12, running on OpenSSL 3.0.19", "3.0", "3.5 or newer"),
        ("HAProxy version 3.2.5, running on OpenSSL 3.6.5", "3.5 or newer", "3.0"),
    ],
)
def test_the_rival_is_the_haproxy_of_the_release(tmp: Path, version: str, ours: str, theirs: str) -> None:
    for row in _rows(budget.relay, _relay(tmp, version)).values():
        if f"OpenSSL {ours}" in row.what:
            assert row.verdict in {"as aimed at", "met", "missed"}
        elif f"OpenSSL {theirs}" in row.what:
            on = version.rpartition("OpenSSL ")[2][:3]
            assert row.verdict == f"not measured: HAProxy is on OpenSSL {on} here"


def test_an_openssl_between_the_rivals_is_neither(tmp: Path) -> None:
    rows = _rows(budget.relay, _relay(tmp, "HAProxy version 2.8, running on OpenSSL 3.2.1"))
    verdicts = {row.verdict for what, row in rows.items() if "HAProxy on OpenSSL" in what}
    assert verdicts == {"not measured: HAProxy is on OpenSSL 3.2 here"}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"missing": "haproxy not installed"}, "haproxy not installed"),
        ({"name": "another"}, "no haproxy-tuned on OpenSSL in this run"),
    ],
)
def test_a_haproxy_that_is_missing_is_the_reason(tmp: Path, record: dict[str, str], reason: str) -> None:
    file = _relay(tmp, "HAProxy version 3.2.5, running on OpenSSL 3.6.5")
    changed = [
        {key: value for key, value in {**r, **record}.items() if key != "version"}
        if r["kind"] == "contestant" and r["name"] == "haproxy-tuned"
        else r
        for r in file.records
    ]
    rows = _rows(budget.relay, ResultFile(file.path, changed))
    verdicts = {row.verdict for what, row in rows.items() if "HAProxy on OpenSSL" in what}
    assert verdicts == {f"not measured: {reason}"}


def test_the_numbers_are_those_of_the_budget() -> None:
    rows = [(row.must, row.aim) for row in budget.relay(None)]
    assert rows == [
        *((0.95, 0.80), (0.90, 0.70), (1.10, 1.0), (0.95, 0.85)),
        *((1.05, 1.3), (1.35, 1.15), (1.15, 1.05), *[(4.0, 1.0), (2.0, 1.0)] * 2),
    ]
    assert [(row.must, row.aim) for row in budget.migrate(None)] == [
        *((1.15, 1.35), (1.0, 1.25), (2.3, 3.0), (4.5, 5.5)),
    ]
    assert [row.must for row in budget.memory(None)] == [80, 160, 356]
    assert [(row.must, row.aim) for row in budget.scale(None)] == [
        *((1.05, 1.0), (1 / 6, 1 / 7), (0.08, 0.04), (10, None))
    ]


def test_daemons_with_and_without_the_compiled_engine_have_their_rows(tmp: Path) -> None:
    rows = _rows(budget.relay, _relay(tmp, "HAProxy version 2.6, running on OpenSSL 3.0.19"))
    own, python = (
        rows[f"CPU time of {name} to that of HAProxy on OpenSSL 3.0, as Debian 12 has it"]
        for name in ("mtunnel", "mtunnel-python")
    )
    assert own.found is not None
    assert python.found is not None
    assert own.found.median < python.found.median  # in the sample, each contestant costs more than the last


def test_round_trips_are_measured_beside_one_and_beside_many(tmp: Path) -> None:
    rows = _rows(budget.relay, _relay(tmp, "HAProxy version 2.6, running on OpenSSL 3.0.19"))
    for streams in ("1 stream", "64 streams"):
        found = rows[f"p99 round trip beside bulk, above idle, {streams}"].found
        assert found is not None
        assert 0 < found.median < 100


def test_workers_are_compared_within_a_round(tmp: Path) -> None:
    def scaled(number: int, workers: int, streams: int, cpu: float) -> dict[str, object]:
        case = {"round": number, "workers": workers, "streams": streams, "bytes": 2 << 30, "seconds": 2.0}
        sides = {"cpu": {"a": cpu, "b": 1.0}, "busiest": {"a": 1.0, "b": 0.5}, "lock": {"a": 0.2, "b": 0.3}}
        return {"kind": "scale", "share": 0.25, **case, **sides}

    records = [scaled(1, 1, 4, 1.0), scaled(1, 2, 4, 2.0), scaled(2, 2, 4, 9.0), scaled(1, 8, 8, 1.0)]
    rows = list(budget.scale(ResultFile(tmp, records)))  # of an older release, without memory
    assert [row.found.median for row in rows if row.found] == [1.5, 0.25, 0.15]
    sizes = {1: {"a": 60 * MIB, "b": 50 * MIB}, 8: {"a": 70 * MIB, "b": 81 * MIB}}
    records = [scaled(1, workers, 8, 1.0) | {"idle": idle} for workers, idle in sizes.items()]
    *_, row = budget.scale(ResultFile(tmp, records))
    assert row.found is not None
    assert row.found.median == 3.0


def test_a_floor_of_the_system_s_library_does_not_count_for_ours(tmp: Path) -> None:
    file = _relay(tmp, "HAProxy version 2.6, running on OpenSSL 3.0.19")
    what = "CPU time to the floor, one stream"
    assert _rows(budget.relay, file)[what].found is not None
    older = [{k: v for k, v in r.items() if k not in {"by", "library"}} for r in file.records]
    verdict = _rows(budget.relay, ResultFile(file.path, older))[what].verdict
    assert verdict == f"not measured: {budget.SYSTEM_PRICED}"


def test_the_best_way_has_its_name_in_its_row(tmp: Path) -> None:
    (file,) = read(samples.migrate(tmp))
    first, second, *_ = _rows(budget.migrate, file).values()
    where = "4 GiB guest, idle, unshaped link"
    assert first.what == "migration, throughput of mtunnel's best way to multifd-tls-4"
    assert first.where == f"{where}: mtunnel"
    assert second.where == where


def test_with_an_old_qemu_the_best_way_is_not_evaluated(tmp: Path) -> None:
    (file,) = read(samples.migrate(tmp))
    qemu = {"kind": "contestant", "name": "native", "version": "libvirt 9, QEMU emulator version 7.2.22"}
    rows = _rows(budget.migrate, ResultFile(file.path, [*file.records, qemu]))
    verdicts = [row.verdict for row in rows.values()]
    assert verdicts[0] == "not measured: QEMU is 7.2 here"
    assert set(verdicts[1:]) == {"missed"}


def test_idle_links_count_if_all_are_up(tmp: Path) -> None:
    (file,) = read(samples.idle(tmp))
    rows = {what: row for what, row in _rows(budget.idle, file).items() if "accepted" in what}
    assert [(row.found and row.found.median, row.must, row.verdict) for row in rows.values()] == [
        (pytest.approx(1.5), 2, "met"),
        (200, 300, "met"),
    ]
    fewer = [{**record, "up": 999} if record["kind"] == "idle" else record for record in file.records]
    rows = _rows(budget.idle, ResultFile(file.path, fewer))
    verdicts = {row.verdict for what, row in rows.items() if "accepted" in what}
    assert verdicts == {"not measured: 999 links in this run"}
    assert {row.verdict for what, row in rows.items() if "dialed" in what} == {"not measured"}
