"""The result file: JSON lines, written immediately, without omissions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunnel.bench.measure import floor
from tunnel.bench.measure.contestants import Contestant
from tunnel.bench.measure.netns import Network
from tunnel.bench.measure.results import SCHEMA, Results
from tunnel.errors import UsageError

PRESENT = Contestant("present", "as it comes", lambda: "present 1.0")
MISSING = Contestant("missing", "as it comes", lambda: "never asked", programs=("no-such-relay",))


def _lines(results: Results) -> list[dict[str, object]]:
    return [json.loads(line) for line in results.path.read_text().splitlines()]


def test_the_name_has_the_date_and_the_benchmark(tmp: Path) -> None:
    name = Results(tmp, "relay").path.name
    date, _, rest = name.partition("-")
    assert (len(date), date[8], date[-1], rest) == (16, "T", "Z", "relay.jsonl")


def test_each_record_is_in_the_file_as_soon_as_it_is_added(tmp: Path) -> None:
    results = Results(tmp / "new", "relay")
    results.add("measurement", contestant="direct", seconds=1.5)
    assert _lines(results) == [{"kind": "measurement", "contestant": "direct", "seconds": 1.5}]
    results.add("measurement", contestant="direct", seconds=1.6)
    assert len(_lines(results)) == 2


def test_one_run_may_append_to_another(tmp: Path) -> None:
    first = Results(tmp, "relay")
    first.add("floor", round=1)
    second = Results(tmp / "elsewhere", "memory", behind=first)
    second.add("measurement", contestant="mtunnel")
    assert [line["kind"] for line in _lines(first)] == ["floor", "measurement"]
    assert (len(first.records), len(second.records)) == (1, 1)


def test_the_first_record_describes_the_run(tmp: Path) -> None:
    results = Results(tmp, "relay")
    results.open_run({"size": 7}, Network("cubic", pinned=True))
    (run,) = _lines(results)
    assert (run["kind"], run["schema"], run["benchmark"], run["options"]) == (
        "run",
        SCHEMA,
        "relay",
        {"size": 7},
    )
    assert run["network"] == {"congestion": "cubic", "pinned": True}
    assert str(run["started"]).endswith("+00:00")
    assert {"command", "machine"} <= run.keys()


def test_a_missing_contestant_is_recorded_and_skipped(tmp: Path) -> None:
    results = Results(tmp, "relay")
    assert results.announce([PRESENT, MISSING]) == [PRESENT]
    assert _lines(results) == [
        {
            "kind": "contestant",
            "name": "present",
            "settings": "as it comes",
            "encrypts": True,
            "relays": False,
            "version": "present 1.0",
        },
        {
            "kind": "contestant",
            "name": "missing",
            "settings": "as it comes",
            "encrypts": True,
            "relays": False,
            "missing": "no-such-relay not installed",
        },
    ]


def test_the_libraries_of_the_floors_are_recorded_as_contestants(
    tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = Results(tmp, "relay")
    results.announce_crypto()
    lines = _lines(results)
    assert [line["name"] for line in lines] == ["aes-256-gcm", "aes-256-gcm-python", "aes-256-gcm-system"]
    assert [line["version"] for line in lines] == [cipher.library for cipher in floor.ciphers()]
    monkeypatch.setattr(floor, "find", lambda program: None)
    results.announce_crypto()
    assert _lines(results)[-1]["missing"] == "openssl is not installed"


def test_the_dump_is_the_content_of_the_file(tmp: Path) -> None:
    results = Results(tmp, "relay")
    results.announce([PRESENT, MISSING])
    assert results.dump() + "\n" == results.path.read_text()
    assert [record["name"] for record in results.of_kind("contestant")] == ["present", "missing"]


def test_a_directory_that_cannot_be_created_is_named(tmp: Path) -> None:
    (tmp / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write results to .*/file/results: Not a directory"):
        Results(tmp / "file" / "results", "relay")
