"""A result file: JSON lines, one object a line, told apart by ``kind``.

================  =======================================================================================
``run``           first, once for each run: benchmark, time, command line, options, network, machine
``contestant``    one each: version and settings, or why it is ``missing``
``floor``         ``relay``: CPU seconds per GiB of AES-256-GCM, in each round by each library
                  (``measure.floor.CryptoCost``; one in each round in older files)
``measurement``   one for each contestant, case (``legs``, ``streams``) and round, as it was measured
``latency``       ``relay``: round trips of a small stream, likewise; seconds
``failure``       a contestant that could not finish, and why
``summary``       one for each contestant and case, last
``migration``     ``migrate``: one guest moved once, in one mode (``measure.guest_records.MeasuredMigration``)
``probe``         ``migrate``: likewise, in the search for the highest rate; ``within`` is its answer
``convergence``   ``migrate``: how fast a guest may write (``measure.guest_records.Convergence``)
``comparison``    ``migrate``: how a mode of mtunnel's compares with its rival, in each setting
``absent``        ``migrate``: a mode that cannot be measured over a link, and why
``rotation``      ``rotate``: one transfer both ways (``measure.rotate.RotateOutcome``)
``cuts``          ``cuts``: lanes that were reset in one case (``measure.cuts.CutsOutcome``)
``abuse``         ``abuse``: one round of one abuse (``measure.abuse.AbuseOutcome``)
``abuse_cuts``    ``abuse``: lanes cut meanwhile (``measure.abuse.Cuts``)
``verdict``       ``abuse``: what follows from both (``measure.abuse.AbuseVerdict``)
``beside``        ``abuse``: a stream beside others that stand still (``measure.beside.BesideOutcome``)
``growth``        ``relay``: the ratio of CPU time per GiB at most to fewest streams, one for each contestant
================  =======================================================================================

Each line is written at once, so that an interrupted run keeps what it had measured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tunnel.bench.measure import floor, machine
from tunnel.bench.measure.contestants import Contestant
from tunnel.bench.measure.netns import Network
from tunnel.errors import UsageError

SCHEMA = 2

Record = dict[str, object]


def named(benchmark: str, started: datetime) -> str:
    """Return the name of the file of a run, which sorts by date."""
    return f"{started:%Y%m%dT%H%M%SZ}-{benchmark}.jsonl"


class Results:
    """The results of one run, in memory and in a file of its own in ``directory``.

    What ``bench goals`` runs shares a file: each run's records follow those of the one before.
    """

    def __init__(
        self, directory: Path, benchmark: str, *, path: Path | None = None, behind: Results | None = None
    ) -> None:
        """``path``: write to this file instead; ``behind``: to the one that these results are in.

        Raises UsageError when the file exists, unless it is theirs, or cannot be made.
        """
        self._benchmark = benchmark
        self._started = datetime.now(UTC)
        self.path = path or directory / named(benchmark, self._started)
        self.records: list[Record] = []
        if behind is not None:
            self.path = behind.path
        elif self.path.exists():
            raise UsageError(f"{self.path} exists: results are never mixed with those of another run")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write results to {self.path.parent}: {error.strerror}") from error

    def add(self, kind: str, **fields: object) -> None:
        """Append one record and write it."""
        record: Record = {"kind": kind, **fields}
        self.records.append(record)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def open_run(self, options: Record, network: Network) -> None:
        """Write the first record: everything that a reader needs to judge or repeat the run."""
        self.add(
            "run",
            schema=SCHEMA,
            benchmark=self._benchmark,
            started=self._started.isoformat(timespec="seconds"),
            command=["bench", *sys.argv[1:]],  # not where this checkout happens to stand
            options=options,
            network=asdict(network),
            machine=machine.describe(),
        )

    def announce(self, contestants: Sequence[Contestant]) -> list[Contestant]:
        """Write a record for each contestant; return those that can take part."""
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
        """Write a record for each library that floors are priced by, or why it is missing."""
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
