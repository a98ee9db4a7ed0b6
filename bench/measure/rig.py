"""The rig: starts programs, controls the source of the load, and leaves no process behind."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Self

from tunnel.bench.measure.endpoint import ProgramAddress
from tunnel.bench.measure.program import BenchError, Program
from tunnel.errors import UsageError

_STOP_SECONDS = 5.0
_READY_SECONDS = 60.0


class Rig:
    """Starts programs and, as a context manager, stops all of them on exit.

    ``directory`` holds their logs. Leaving the block sends SIGTERM to all, then SIGKILL to those that still
    run five seconds later. If the rig itself is killed, the kernel kills its programs (``Child``).
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.programs: list[Program] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for program in reversed(self.programs):
            program.signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        for program in reversed(self.programs):
            program.reap(max(0.0, deadline - time.monotonic()))

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        talks: bool = False,
    ) -> Program:
        """Start ``command`` in its own process group, with its output in a log.

        With ``talks`` its standard input and output are pipes to this process. Raises BenchError when it
        cannot start.
        """
        path = self._directory / f"{len(self.programs)}-{name}.log"
        try:
            program = Program(name, command, path, pipes=talks)
        except (UsageError, OSError) as error:
            raise BenchError(f"cannot start {name}: {error}") from error
        self.programs.append(program)
        return program

    def start_module(self, name: str, module: str, role: str, endpoint: ProgramAddress) -> Program:
        """Start ``role`` of a benchmark module at ``endpoint``, and wait until it listens there."""
        program = self.start(name, self.module(module, role, endpoint))
        program.wait_listening(endpoint)
        return program

    @staticmethod
    def module(name: str, *arguments: object) -> list[str]:
        """Return the command that runs a benchmark module."""
        return [sys.executable, "-m", f"tunnel.bench.measure.{name}", *map(str, arguments)]

    @staticmethod
    def stop(program: Program) -> None:
        """Stop one program before the others."""
        program.signal(signal.SIGTERM)
        program.reap(_STOP_SECONDS)

    def start_sink(
        self, endpoint: ProgramAddress, *, pace: float = 0.0, stalled: int | None = None
    ) -> Program:
        """Start a sink and wait until it listens.

        ``pace``: seconds between two bytes, 0 for full speed; it applies to the first ``stalled``
        connections, None for all.
        """
        command = [*load_command("sink", endpoint), f"--pace={pace}"]
        sink = self.start("sink", command if stalled is None else [*command, f"--stalled={stalled}"])
        sink.wait_listening(endpoint)
        return sink

    def start_source(self, endpoint: ProgramAddress, *, streams: int = 1) -> Source:
        """Start a source and wait until each of its streams has been tested end to end, through the relay."""
        command = [*load_command("source", endpoint), f"--streams={streams}"]
        source = Source(self.start("source", command, talks=True))
        source.hear(_READY_SECONDS)
        return source


@contextmanager
def scratch_rig() -> Iterator[tuple[Rig, Path]]:
    """Return a rig and a new directory, which are both removed at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="mtunnel-bench-") as scratch, Rig(Path(scratch)) as rig:
        yield rig, Path(scratch)


class Source:
    """The rig's end of the control pipes of a running source (the other end: ``load.run_source``)."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def transfer(self, count: int, timeout: float) -> float:
        """Send ``count`` bytes; return the seconds from the first byte sent to the last byte acknowledged."""
        self.begin(count)
        return self.hear(timeout)["seconds"]

    def begin(self, count: int) -> None:
        """Start to send ``count`` bytes; ``hear()`` then returns the ``seconds`` that it took."""
        self.say({"transfer": count})

    def has_answered(self) -> bool:
        """Return whether ``hear()`` would return without waiting."""
        return bool(select.select([self._answers()], [], [], 0)[0])

    def ping(self, count: int, timeout: float) -> list[float]:
        """Make ``count`` small requests on one connection; return the seconds until the reply of each."""
        self.say({"ping": count})
        round_trips: list[float] = json.loads(self._line(timeout))["round_trips"]
        return round_trips

    def flood(self, seconds: float) -> None:
        """Start to send as much as is accepted in ``seconds``; ``hear()`` then returns ``accepted`` bytes."""
        self.say({"flood": seconds})

    def hear(self, timeout: float) -> dict[str, float]:
        """Wait for the next reply and return it. Raises BenchError after ``timeout`` seconds."""
        answer: dict[str, float] = json.loads(self._line(timeout))
        return answer

    def close(self) -> None:
        """Stop the source and close its connections. Raises BenchError when it does not exit."""
        pipe = self.program.process.stdin
        if pipe is not None:
            with suppress(BrokenPipeError):  # data that the program did not read before it exited
                pipe.close()
        try:
            self.program.process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"{self.program.name} does not exit{self.program.said()}") from error

    def say(self, command: dict[str, float]) -> None:
        """Send one command. Raises BenchError when the program has exited."""
        pipe = self.program.process.stdin
        if pipe is None:
            raise BenchError(f"{self.program.name} was started without pipes")
        try:
            print(json.dumps(command), file=pipe, flush=True)
        except BrokenPipeError as error:
            raise BenchError(f"{self.program.name} has exited{self.program.said()}") from error

    def _line(self, timeout: float) -> str:
        pipe = self._answers()
        if not select.select([pipe], [], [], timeout)[0]:
            raise BenchError(f"{self.program.name}: no reply after {timeout:.0f} s{self.program.said()}")
        line = pipe.readline()
        if not line:
            raise BenchError(f"{self.program.name} exited{self.program.said()}")
        return line

    def _answers(self) -> IO[str]:
        pipe = self.program.process.stdout
        if pipe is None:
            raise BenchError(f"{self.program.name} was started without pipes")
        return pipe


def load_command(role: str, endpoint: ProgramAddress) -> list[str]:
    """Return the command that runs one end of the load."""
    return Rig.module("load", role, endpoint)
