"""The ``bench`` command, with output for terminals and for programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import samples
from tunnel.bench.measure.measurement import Case

RELAY = ["relay", "--size=1MiB", "--rounds=1", "--samples=20"]


def _bench(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tunnel.bench", *arguments, f"--results={directory}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_json_output_is_the_result_file(tmp: Path) -> None:
    done = _bench(tmp, *RELAY, "--only=direct", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (file,) = tmp.glob("*-relay.jsonl")
    assert done.stdout == file.read_text()
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["kind"] for record in records] == [
        "run",
        "contestant",
        "measurement",
        "latency",
        "summary",
    ]
    assert records[0]["options"] == {
        "size": 1 << 20,
        "repeat": 1,
        "streams": [1],
        "legs": ["tcp"],
        "samples": 20,
    }


def test_one_run_measures_every_combination_and_how_the_cost_grows(tmp: Path) -> None:
    cases = ["--streams=1,3", "--legs=tcp,unix", "--samples=0"]
    done = _bench(tmp, *RELAY[:3], *cases, "--only=direct,plain-relay", "--json")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    summaries = [r for r in records if r["kind"] == "summary" and r["contestant"] == "direct"]
    found = [(r["legs"], r["streams"]) for r in summaries]
    assert found == [("tcp", 1), ("tcp", 3), ("unix", 1), ("unix", 3)]
    assert [r["name"] for r in records if r["kind"] == "contestant"][-3:] == [
        *("aes-256-gcm", "aes-256-gcm-python", "aes-256-gcm-system"),
    ]
    assert [r["round"] for r in records if r["kind"] == "floor"] == [1, 1, 1]


def test_terminal_output_is_a_table_and_the_path_of_the_file(tmp: Path) -> None:
    done = _bench(tmp, *RELAY, "--only=direct")
    assert done.returncode == 0
    assert "GiB/s" in done.stdout
    assert "direct" in done.stdout
    assert "congestion control" in done.stderr
    assert "-relay.jsonl" in done.stderr.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["relay", "--size=big"], "--size: 'big' is not a number with a unit"),
        (["relay", "--size=0MiB"], "--size must be above zero"),
        (["relay", "--legs=tcp,rdma"], "--legs must be tcp, unix or tcp,unix, not 'tcp,rdma'"),
        (["relay", "--legs="], "--legs must be tcp, unix or tcp,unix, not ''"),
        (["relay", "--streams=1,many"], "--streams must be a list of numbers from 1 to 256"),
        (["relay", "--streams=1,999"], "--streams must be a list of numbers from 1 to 256"),
        (["relay", "--only=nginx"], "unknown contestant: nginx"),
        (["rotate", "--kinds=kernel"], "--kinds must be a list of pairs of userspace, kernel"),
        (["report"], "no result file in"),
        (["memory", "--only=direct"], "direct is not a relay"),
        (["migrate", "--only=rdma"], "unknown mode: rdma; known: native, native-tls"),
        (["migrate", "--link=fast"], "--link: 'fast' is not a bandwidth"),
        (["migrate", "--memory=1MiB"], "--memory must be 32MiB to 60GiB"),
    ],
)
def test_an_invalid_option_is_explained_and_nothing_is_run(
    tmp: Path, arguments: list[str], complaint: str
) -> None:
    done = _bench(tmp, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"bench: {complaint}")
    assert list(tmp.iterdir()) == []


def test_a_report_is_written_from_the_newest_results(tmp: Path) -> None:
    samples.relay(tmp, cases=[Case("tcp", 1)])
    done = _bench(tmp, "report")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(tmp / "report.html"), str(tmp / "report.md")]


def test_a_report_of_a_named_file_is_written_to_the_output_directory(tmp: Path) -> None:
    file = samples.memory(tmp)
    done = _bench(tmp, "report", str(file), f"--output={tmp}/new")
    assert done.returncode == 0
    assert "Resident memory" in (tmp / "new" / "report.html").read_text()
