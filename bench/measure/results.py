"""A result file: JSON lines, one object per line, distinguished by ``kind``.

================  =======================================================================================
``run``           first, once for each run: benchmark, time, command line, options, network, machine
``contestant``    one each: version and settings, or why it is ``missing``
``floor``         ``relay``: CPU seconds per GiB of AES-256-GCM, in each round by each library
                  (``measure.floor.CryptoCost``; one in each round in older files)
``measurement``   one for each contestant, case (``legs``, ``streams``) and round
``latency``       ``relay``: round trips of a small stream, likewise; seconds
``failure``       a contestant that failed, and why
``summary``       one for each contestant and case, last
``migration``     ``migrate``: one guest migrated in one mode (``measure.guest_records.MeasuredMigration``)
``probe``         ``migrate``: likewise, in the search for the highest rate; ``within`` is its result
``convergence``   ``migrate``: how fast a guest may write (``measure.guest_records.Convergence``)
``comparison``    ``migrate``: how a mode of mtunnel's compares with its rival, in each setting
``absent``        ``migrate``: a mode that cannot be measured over a link, and why
``rotation``      ``rotate``: one transfer both ways (``measure.rotate.RotateOutcome``)
``cuts``          ``cuts``: lanes that were reset in one case (``measure.cuts.CutsOutcome``)
``abuse``         ``abuse``: one round of one abuse (``measure.abuse.AbuseOutcome``)
``abuse_cuts``    ``abuse``: lanes cut meanwhile (``measure.abuse.Cuts``)
``verdict``       ``abuse``: the verdict on both (``measure.abuse.AbuseVerdict``)
``beside``        ``abuse``: a stream beside stalled ones (``measure.beside.BesideOutcome``)
``idle``          ``idle``: one round with idle links (``measure.idle.IdleOutcome``)
``growth``        ``relay``: the ratio of CPU time per GiB at most to fewest streams, one for each contestant
================  =======================================================================================

Each line is written immediately, so that an interrupted run keeps its measurements.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tunnel.bench.measure import floor, machine
from tunnel.bench.measure.contestants import Contestant
from tunnel.bench.measure.netns import Network
from tunnel.bench.measure.program import BenchError
from tunnel.errors import UsageError

SCHEMA = 2

Record = dict[str, object]


def named(benchmark: str, started: datetime) -> str:
    """Return the name of a run's result file, which sorts by date."""
    return f"{started:%Y%m%dT%H%M%SZ}-{benchmark}.jsonl"


class Results:
    """The results of one run, in memory and in a new file in ``directory``.

    The runs of ``bench goals`` share a file: the records of each run follow those of the previous one.
    """

    def __init__(
        self, directory: Path, benchmark: str, *, path: Path | None = None, behind: Results | None = None
    ) -> None:
        """``path``: write to this file instead; ``behind``: append to the file of these results.

        Raises UsageError when the file exists, unless it is that of ``behind``, or cannot be created.
        """
        self._benchmark = benchmark
        self._started = datetime.now(UTC)
        self.path = path or directory / named(benchmark, self._started)
        self.records: list[Record] = []
        if behind is not None:
            self.path = behind.path
        elif self.path.exists():
            raise UsageError(f"{self.path} already exists: choose another file, runs are not mixed in one")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write results to {self.path.parent}: {error.strerror}") from error

    def add(self, kind: str, **fields: object) -> None:
        """Append one record, also to the file."""
        record: Record = {"kind": kind, **fields}
        self.records.append(record)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    @contextmanager
    def failure_of(self, contestant: str, **fields: object) -> Iterator[None]:
        """Record a BenchError that ends the block as a failure of ``contestant``, and continue after it."""
        try:
            yield
        except BenchError as error:
            self.add("failure", contestant=contestant, **fields, reason=str(error))

    def open_run(self, options: Record, network: Network) -> None:
        """Write the first record: everything that is needed to interpret or repeat the run."""
        self.add(
            "run",
            schema=SCHEMA,
            benchmark=self._benchmark,
            started=self._started.isoformat(timespec="seconds"),
            command=["bench", *sys.argv[1:]],  # without the path of this checkout
            options=options,
            network=asdict(network),
            machine=machine.describe(),
        )

    def announce(self, contestants: Sequence[Contestant]) -> list[Contestant]:
        """Write a record for each contestant; return those that can run here."""
        present = []
        for contestant in contestants:
            missing = contestant.missing()
            known = {"missing": missing} if missing else {"version": contestant.version()}
            self.add(
                "contestant",
                name=contestant.name,
                settings=contestant.settings,
                encrypts=contestant.encrypts,
                relays=contestant.sides is not None,
                **known,
            )
            if not missing:
                present.append(contestant)
        return present

    def announce_crypto(self) -> None:
        """Write a record for each library that a floor is computed with, or why it is missing."""
        for cipher in floor.ciphers():
            known = {"missing": cipher.missing} if cipher.missing else {"version": cipher.library}
            settings = cipher.settings
            self.add("contestant", name=cipher.name, settings=settings, encrypts=True, relays=False, **known)

    def of_kind(self, kind: str) -> list[Record]:
        """Return the records of one kind, in order."""
        return [record for record in self.records if record["kind"] == kind]

    def dump(self) -> str:
        """Return the file's text."""
        return "\n".join(json.dumps(record) for record in self.records)
