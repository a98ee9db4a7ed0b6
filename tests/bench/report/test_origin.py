"""Where figures are from: runs, contestants of several runs, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import samples
from tunnel.bench.report.document import Block, DataTable
from tunnel.bench.report.origin import absent, absent_blocks, blocks, machine, newest, release
from tunnel.bench.report.result_file import ResultFile, read, read_all
from tunnel.errors import UsageError


def _rows(block: Block) -> list[list[str]]:
    assert isinstance(block, DataTable)
    return [list(map(str, row)) for row in block.rows]


def _on(**machine: object) -> ResultFile:
    run = {"kind": "run", "machine": machine}
    qemu = {"kind": "contestant", "version": "libvirt 11.3.0, QEMU emulator version 10.0.13 (Debian 1:10)"}
    return ResultFile(Path("x"), [run, qemu])


def test_a_release_has_its_qemu() -> None:
    assert release(_on(system="Debian GNU/Linux 13 (trixie)")) == "Debian 13 (QEMU 10.0)"
    assert release(_on(system="Debian GNU/Linux forky/sid")) == "Debian sid (QEMU 10.0)"
    assert machine(_on(cpu="Intel(R) Xeon(R) Processor", cores=2)) == "2 cores of an Intel Xeon"


def _write(directory: Path, name: str, system: str, *benchmarks: str, **record: object) -> None:
    started = f"{name[:4]}-{name[4:6]}-{name[6:8]}T00:00:00+00:00"
    records = [
        {
            "kind": "run",
            "schema": 2,
            "benchmark": benchmark,
            "started": started,
            "machine": {"system": system},
        }
        for benchmark in benchmarks
    ]
    lines = map(json.dumps, [*records, *([record] if record else [])])
    (directory / f"{name}.jsonl").write_text("\n".join(lines))


def test_the_newest_run_of_each_benchmark_on_each_release_is_chosen(tmp: Path) -> None:
    new, old = "Debian GNU/Linux 13 (trixie)", "Debian GNU/Linux 12 (bookworm)"
    _write(tmp, "20260101-migrate", new, "migrate", kind="convergence")
    _write(tmp, "20260102-migrate", new, "migrate")
    _write(tmp, "20260103-goals", new, "migrate", "relay")
    _write(tmp, "20260104-relay", new, "relay")
    _write(tmp, "20260102-relay", old, "relay")
    assert sorted((run.path.stem, run.benchmark) for run in newest(tmp)) == [
        ("20260101-migrate", "migrate"),
        ("20260102-relay", "relay"),
        ("20260103-goals", "migrate"),
        ("20260104-relay", "relay"),
    ]


def test_a_directory_without_results_is_named(tmp: Path) -> None:
    with pytest.raises(UsageError, match=rf"no result file in {tmp}; run ./run bench relay to make one"):
        newest(tmp)


def test_the_absent_have_one_line_of_reason(tmp: Path) -> None:
    (file,) = read(samples.relay(tmp))
    assert absent(file.records) == [
        ("rocket", "rocket & co not installed"),
        ("stunnel", "failed: a ended"),
    ]
    ((name, reason, run), _) = _rows(*absent_blocks([file]))
    assert (name, reason) == ("rocket", "rocket & co not installed")
    assert run.startswith("relay, 20")
    assert absent_blocks(read(samples.memory(tmp))) == []


def test_a_run_can_be_repeated(tmp: Path) -> None:
    text = repr(_rows(blocks(read(samples.memory(tmp)))[0]))
    for expected in (
        "bench",
        "stall_seconds 60",
        "cores",
        "kernel",
        "commit",
        "cubic, in a network namespace",
    ):
        assert expected in text


def test_equal_contestants_of_several_runs_share_a_row(tmp: Path) -> None:
    files = read_all([samples.relay(tmp / name) for name in ("a", "b")])
    runs, contestants, _ = blocks(files)
    assert len(_rows(runs)) == 2
    names = [row[0] for row in _rows(contestants)]
    assert len(names) == len(set(names))
    assert all(len(row[3].split("; ")) == 2 for row in _rows(contestants))
    assert ["rocket", "<b>none</b>", "missing: rocket & co not installed"] in [
        r[:3] for r in _rows(contestants)
    ]
