"""Reading result files: which exist, the records of a file, and its measurements as they were taken."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from tunnel.bench.measure.floor import CryptoCost
from tunnel.bench.measure.measurement import Case, Latency, Measurement, Percentiles
from tunnel.bench.measure.migration_modes import FORMER
from tunnel.bench.measure.relay import Measured
from tunnel.bench.measure.results import SCHEMA
from tunnel.errors import UsageError

_MODE_KEYS = {"mode", "name", "contestant", "ours", "rival"}  # where records name modes of ``bench migrate``

Fields = Mapping[str, Any]  # a line of JSON: read by key, where the type of the key is known
_T = TypeVar("_T")


@dataclass(frozen=True)
class ResultFile:
    """The records that one run wrote into a result file; the ``run`` record is first."""

    path: Path
    records: Sequence[Fields]

    @property
    def run(self) -> Fields:
        """The ``run`` record: command, options, date and machine."""
        return self.records[0]

    @property
    def benchmark(self) -> str:
        """``relay``, ``memory`` or ``migrate``."""
        return str(self.run["benchmark"])

    @property
    def when(self) -> str:
        """Date and time to the minute, to distinguish it from other runs."""
        return str(self.run.get("started", ""))[:16].replace("T", " ")

    def of_kind(self, kind: str) -> list[Fields]:
        """Return the records of one kind, in order."""
        return [record for record in self.records if record["kind"] == kind]

    def build(self, kind: str, shape: type[_T]) -> list[_T]:
        """Return the records of one kind as objects of the dataclass ``shape``, by its fields.

        Records of older releases may lack fields that have a default.
        """
        known = fields(shape)  # type: ignore[arg-type]  # a dataclass, see above
        optional = {f.name for f in known if (f.default, f.default_factory) != (MISSING, MISSING)}
        try:
            return [
                shape(**{f.name: record[f.name] for f in known if f.name in record or f.name not in optional})
                for record in self.of_kind(kind)
            ]
        except KeyError as error:
            raise UsageError(f"{self.path}: a record of kind {kind} has no {error}") from error


def read(path: Path) -> list[ResultFile]:
    """Read one file: one run, or the several runs of ``bench goals``.

    Raises UsageError when it cannot be read, or is not a result file of a supported schema.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    records = [_record(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not records or records[0]["kind"] != "run":
        raise UsageError(f"{path}: not a result file: its first line is not a record of kind run")
    begins = [number for number, record in enumerate(records) if record["kind"] == "run"]
    return [_run(path, records[begin:end]) for begin, end in pairwise([*begins, len(records)])]


def _run(path: Path, records: Sequence[Fields]) -> ResultFile:
    schema = records[0].get("schema")
    if schema not in range(1, SCHEMA + 1):
        raise UsageError(f"{path}: schema {schema} is not supported; measure again with this version")
    return ResultFile(path, records)


def _record(path: Path, number: int, line: str) -> Fields:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{path}:{number}: not JSON: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        raise UsageError(f"{path}:{number}: not a JSON object with a kind")
    renamed = {key: FORMER[record[key]] for key in _MODE_KEYS & record.keys() if str(record[key]) in FORMER}
    return record | renamed


def read_all(paths: Iterable[Path]) -> list[ResultFile]:
    """Read files, each once even if named repeatedly; the oldest run first. Raises UsageError."""
    runs = [run for path in dict.fromkeys(paths) for run in read(path)]
    return sorted(runs, key=lambda run: run.when)


def measured(file: ResultFile) -> Measured:
    """Return the measurements of ``bench relay``. Raises UsageError when a record lacks a key."""
    try:
        return Measured(
            transfers=[_measurement(file, record) for record in file.of_kind("measurement")],
            latencies=[_latency(file, record) for record in file.of_kind("latency")],
            crypto=[_crypto(record) for record in file.of_kind("floor")],
        )
    except (KeyError, TypeError) as error:
        raise UsageError(f"{file.path}: a record has a missing or invalid key: {error}") from error


def _crypto(record: Fields) -> CryptoCost:
    named = {key: record[key] for key in ("by", "library") if key in record}
    return CryptoCost(record["round"], record["encrypt"], record["decrypt"], **named)


def _measurement(file: ResultFile, record: Fields) -> Measurement:
    return Measurement(
        contestant=record["contestant"],
        round=record["round"],
        case=_case(file, record),
        bytes=record["bytes"],
        seconds=record["seconds"],
        cpu_seconds=record["cpu_seconds"],
        rss_peak=record["rss_peak"],
    )


def _latency(file: ResultFile, record: Fields) -> Latency:
    idle, loaded = Percentiles(**record["idle"]), Percentiles(**record["loaded"])
    return Latency(record["contestant"], record["round"], _case(file, record), idle, loaded)


def _case(file: ResultFile, record: Fields) -> Case:
    if "legs" in record:
        return Case(record["legs"], record["streams"])
    options = file.run["options"]  # schema 1 had one case in a run
    return Case("unix" if options["unix_legs"] else "tcp", options["streams"])
