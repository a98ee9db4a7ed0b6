"""Reading result files: written records are read back, and errors name file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import samples
from tunnel.bench.measure.guest_records import Convergence, MeasuredMigration
from tunnel.bench.measure.measurement import Case
from tunnel.bench.report.result_file import measured, read, read_all
from tunnel.errors import UsageError

RUN = {"kind": "run", "schema": 2, "benchmark": "relay", "options": {}}


def _file(directory: Path, *records: object, name: str = "20260101T000000Z-relay.jsonl") -> Path:
    path = directory / name
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def test_measurements_are_read_back_unchanged(tmp: Path) -> None:
    (file,) = read(samples.relay(tmp, cases=[Case("unix", 4)], rounds=2))
    found = measured(file)
    first = found.transfers[0]
    assert (file.benchmark, first.contestant, first.round, first.case) == (
        "relay",
        "direct",
        1,
        Case("unix", 4),
    )
    assert [m.as_record() for m in found.transfers] == [
        {key: value for key, value in record.items() if key != "kind"}
        for record in file.of_kind("measurement")
    ]
    assert [trip.as_record() for trip in found.latencies] == [
        {key: value for key, value in record.items() if key != "kind"} for record in file.of_kind("latency")
    ]
    assert [(cost.round, cost.by) for cost in found.crypto[2:4]] == [
        (1, "aes-256-gcm-system"),
        (2, "aes-256-gcm"),
    ]
    assert found.crypto[0].library == "libipsec-mb 1.5"


def test_floors_of_older_files_have_no_library(tmp: Path) -> None:
    (file,) = read(_file(tmp, RUN, {"kind": "floor", "round": 1, "encrypt": 0.2, "decrypt": 0.3}))
    (cost,) = measured(file).crypto
    assert (cost.both, cost.by, cost.library) == (0.5, "", "")


def test_modes_of_older_files_get_their_current_names(tmp: Path) -> None:
    (file,) = read(
        _file(
            tmp,
            RUN,
            {"kind": "contestant", "name": "multifd-tls"},
            {"kind": "migration", "mode": "mtunnel-multifd"},
            {"kind": "comparison", "ours": "mtunnel", "rival": "multifd"},
            {"kind": "failure", "contestant": "multifd-tls", "reason": "multifd"},
        )
    )
    names, moved, compared, failed = file.records[1:]
    assert names["name"] == failed["contestant"] == "multifd-tls-4"
    assert moved["mode"] == "mtunnel-multifd-4"
    assert (compared["ours"], compared["rival"]) == ("mtunnel", "multifd-4")
    assert failed["reason"] == "multifd"


def test_migrations_are_read_back(tmp: Path) -> None:
    (file,) = read(samples.migrate(tmp))
    assert {m.mode for m in file.build("migration", MeasuredMigration)} == set(samples.MODES)
    assert len(file.build("convergence", Convergence)) == 2 * len(samples.MODES)


def test_a_file_of_the_first_schema_has_one_case(tmp: Path) -> None:
    run = RUN | {"schema": 1, "options": {"streams": 16, "unix_legs": True}}
    old = {"kind": "measurement", "contestant": "x", "round": 1, "bytes": 1, "seconds": 1.0}
    found = measured(*read(_file(tmp, run, old | {"cpu_seconds": {}, "rss_peak": {}})))
    assert found.transfers[0].case == Case("unix", 16)


def test_files_are_sorted_by_date_without_duplicates(tmp: Path) -> None:
    runs = [{**RUN, "started": f"2026-11-{day}T10:09:17+00:00"} for day in (24, 23)]
    later, earlier = (_file(tmp, run, name=f"{n}-relay.jsonl") for n, run in enumerate(runs))
    found = read_all([later, earlier, later])
    assert [file.when for file in found] == ["2026-11-23 10:09", "2026-11-24 10:09"]


def test_each_run_in_a_file_has_its_own_records(tmp: Path) -> None:
    records = [RUN, {"kind": "floor"}, RUN | {"benchmark": "memory"}, RUN | {"benchmark": "migrate"}]
    runs = read(_file(tmp, *records, name="20260101T000000Z-goals.jsonl"))
    assert [(run.benchmark, len(run.of_kind("floor"))) for run in runs] == [
        ("relay", 1),
        ("memory", 0),
        ("migrate", 0),
    ]


@pytest.mark.parametrize(
    ("records", "complaint"),
    [
        ([], "not a result file"),
        ([{"kind": "summary"}], "not a result file: its first line is not a record of kind run"),
        ([RUN | {"schema": 99}], "schema 99 is not supported; measure again with this version"),
        ([RUN, RUN | {"schema": 0}], "schema 0 is not supported; measure again with this version"),
        ([RUN, ["a", "list"]], ":2: not a JSON object with a kind"),
        ([RUN, {"name": "x"}], ":2: not a JSON object with a kind"),
    ],
)
def test_an_invalid_file_is_explained(tmp: Path, records: list[object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        read(_file(tmp, *records))


def test_a_line_that_is_not_json_is_named(tmp: Path) -> None:
    path = _file(tmp, RUN)
    path.write_text(path.read_text() + "{half\n")
    with pytest.raises(UsageError, match=r"relay.jsonl:2: not JSON"):
        read(path)


def test_a_file_that_cannot_be_read_is_named(tmp: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*/none.jsonl"):
        read(tmp / "none.jsonl")


def test_a_record_with_a_missing_key_is_named(tmp: Path) -> None:
    (file,) = read(
        _file(tmp, RUN, {"kind": "measurement", "contestant": "x"}, {"kind": "migration", "mode": "x"})
    )
    with pytest.raises(UsageError, match=r"relay.jsonl: a record has a missing or invalid key: 'round'"):
        measured(file)
    with pytest.raises(UsageError, match=r"relay.jsonl: a record of kind migration has no 'round'"):
        file.build("migration", MeasuredMigration)
