"""Where the figures of a run are from: release, machine, command, contestants and what is missing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunnel.bench.report.document import Block, DataTable
from tunnel.bench.report.result_file import ResultFile, read_all
from tunnel.errors import UsageError
from tunnel.units import GIB


def release(file: ResultFile) -> str:
    """Return the release of a run's system and its QEMU, for example ``Debian 13 (QEMU 10.0)``."""
    system = re.sub(r"^(\S+) GNU/Linux (\S+).*", r"\1 \2", str(file.run["machine"]["system"]))
    system = system.replace("forky/", "")
    versions = " ".join(str(record.get("version")) for record in file.of_kind("contestant"))
    qemu = re.search(r"QEMU emulator version (\d+\.\d+)", versions)
    return f"{system} (QEMU {qemu[1]})" if qemu else system


def newest(directory: Path) -> list[ResultFile]:
    """Return the newest run of each benchmark on each release, and the newest searches for the dirty rate.

    Raises UsageError when there is none, or when a file in ``directory`` cannot be read.
    """
    found: dict[tuple[str, str], ResultFile] = {}
    for run in read_all(directory.glob("*-*.jsonl")):
        system, _, _ = release(run).partition(" (")
        found[run.benchmark, system] = run
        if run.of_kind("convergence"):
            found["convergence", system] = run
    if not found:
        raise UsageError(f"no result file in {directory}; run ./run bench relay to make one")
    return list({id(run): run for run in found.values()}.values())


def machine(file: ResultFile) -> str:
    """Return the number of cores and the CPU, for example ``2 cores of an AMD EPYC``."""
    known = file.run["machine"]
    cpu = re.sub(r"\((R|TM)\)|\s+(CPU|Processor).*", "", str(known["cpu"])).strip()
    return f"{known['cores']} cores of an {cpu}"


def absent(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return contestants that are missing from, or failed in, a run, with the first line of the reason."""
    missing = [(str(r["name"]), str(r["missing"])) for r in records if "missing" in r]
    failed = [
        (str(r["contestant"]), f"failed: {str(r['reason']).splitlines()[0]}")
        for r in records
        if r["kind"] == "failure"
    ]
    return missing + failed


def absent_blocks(files: Sequence[ResultFile]) -> list[Block]:
    """Return what was not measured, or is incomplete, with the reason; no block when nothing is missing."""
    gone = [(name, reason, _run(file)) for file in files for name, reason in absent(file.records)]
    headings = ["not measured, or incomplete", "reason", "run"]
    return [DataTable(headings, gone, words=True)] if gone else []


def blocks(files: Sequence[ResultFile]) -> list[Block]:
    """Return everything that is needed to interpret or repeat the runs."""
    runs = DataTable(["run", *_FACTS], [_facts(file) for file in files], words=True)
    return [runs, *_contestants(files), *absent_blocks(files)]


def _contestants(files: Sequence[ResultFile]) -> Iterator[Block]:
    """Yield a table of contestants, in which equal ones of several runs share a row."""
    known: dict[tuple[str, str, str], list[str]] = {}
    for file in files:
        for record in file.of_kind("contestant"):
            version = str(record.get("version") or f"missing: {record['missing']}")
            known.setdefault((record["name"], record["settings"], version), []).append(_run(file))
    if known:
        rows = [[*contestant, "; ".join(runs)] for contestant, runs in known.items()]
        yield DataTable(["contestant", "settings", "version", "runs"], rows, words=True)


def _run(file: ResultFile) -> str:
    return f"{file.benchmark}, {file.when}"


_FACTS = ("command and options", "machine", "software", "network", "file")


def _facts(file: ResultFile) -> list[str]:
    run = file.run
    known, network = run["machine"], run["network"]
    pinned = "in a network namespace of its own" if network["pinned"] else "the system's, not pinned"
    options = ", ".join(f"{key} {value}" for key, value in run["options"].items())
    size = f"{known['cores']} cores, {known['memory_bytes'] / GIB:.1f} GiB"
    software = (
        f"{known['system']}, kernel {known['kernel']}, Python {known['python']}, {known['openssl']}, "
        f"commit {known['commit']}"
    )
    return [
        _run(file),
        f"{shlex.join(run['command'])}: {options}",
        f"{known['cpu']}, {size}; load before: {known['load_average']}",
        software,
        f"{network['congestion']}, {pinned}",
        file.path.name,
    ]
