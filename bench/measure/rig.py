"""The rig: starts programs, talks to the source of the load, and leaves nothing running behind."""

from __future__ import annotations

import json
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tunnel.bench.measure.endpoint import ProgramAddress
from tunnel.bench.measure.program import BenchError, Program

_STOP_SECONDS = 5.0
_READY_SECONDS = 60.0


class Rig:
    """Starts programs and, as a context manager, stops every one of them on any way out.

    ``directory`` takes their logs. Leaving the block sends SIGTERM to all, then SIGKILL to whatever still
    runs five seconds later. Should the rig itself be killed, the kernel kills what it had started
    (``setpriv --pdeathsig``).
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.programs: list[Program] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        """Start ``command`` in a process group of its own, its output going to a log.

        With ``talks`` its standard input and output are pipes of ours. Raises BenchError when it cannot
        start.
        """
        path = self._directory / f"{len(self.programs)}-{name}.log"
        with path.open("w") as log:
            try:
                process = subprocess.Popen(
                    [*_dying_with_us(), *command],
                    stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if talks else log,
                    stderr=log,
                    start_new_session=True,
                    text=True,
                )
            except OSError as error:
                raise BenchError(f"cannot start {name}: {error}") from error
        program = Program(name, process, path)
        self.programs.append(program)
        return program

    def start_module(self, name: str, module: str, role: str, endpoint: ProgramAddress) -> Program:
        """Start ``role`` of one of our modules at ``endpoint``, and wait until it listens there."""
        program = self.start(name, self.module(module, role, endpoint))
        program.wait_listening(endpoint)
        return program

    @staticmethod
    def module(name: str, *arguments: object) -> list[str]:
        """Return the command that runs one of our modules."""
        return [sys.executable, "-m", f"tunnel.bench.{name}", *map(str, arguments)]

    @staticmethod
    def stop(program: Program) -> None:
        """End one of them before the others."""
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
        """Start a source and wait until each of its streams was proven end to end, through the relay."""
        command = [*load_command("source", endpoint), f"--streams={streams}"]
        source = Source(self.start("source", command, talks=True))
        source.hear(_READY_SECONDS)
        return source


class Source:
    """The rig's half of the conversation with a running source (the other half: ``load.run_source``)."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def transfer(self, count: int, timeout: float) -> float:
        """Send ``count`` bytes; return the seconds from the first byte sent to the last byte acknowledged."""
        self.begin(count)
        return self.hear(timeout)["seconds"]

    def begin(self, count: int) -> None:
        """Begin to send ``count`` bytes; ``hear()`` then says how many ``seconds`` that took."""
        self.say({"transfer": count})

    def has_answered(self) -> bool:
        """Whether ``hear()`` would return at once."""
        return bool(select.select([self._answers()], [], [], 0)[0])

    def ping(self, count: int, timeout: float) -> list[float]:
        """Make ``count`` small requests on one connection; return the seconds until each was answered."""
        self.say({"ping": count})
        round_trips: list[float] = json.loads(self._line(timeout))["round_trips"]
        return round_trips

    def flood(self, seconds: float) -> None:
        """Begin to send as much as is taken for ``seconds``; ``hear()`` then says what was ``accepted``."""
        self.say({"flood": seconds})

    def hear(self, timeout: float) -> dict[str, float]:
        """Wait for the next answer. Raises BenchError when there is none in ``timeout`` seconds."""
        answer: dict[str, float] = json.loads(self._line(timeout))
        return answer

    def close(self) -> None:
        """End the source and its connections. Raises BenchError when it does not end."""
        pipe = self.program.process.stdin
        if pipe is not None:
            with suppress(BrokenPipeError):  # what the program did not live to read
                pipe.close()
        try:
            self.program.process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"{self.program.name} does not end{self.program.said()}") from error

    def say(self, command: dict[str, float]) -> None:
        """Send one command. Raises BenchError when the program has ended."""
        pipe = self.program.process.stdin
        if pipe is None:
            raise BenchError(f"{self.program.name} was started without pipes")
        try:
            print(json.dumps(command), file=pipe, flush=True)
        except BrokenPipeError as error:
            raise BenchError(f"{self.program.name} has ended{self.program.said()}") from error

    def _line(self, timeout: float) -> str:
        pipe = self._answers()
        if not select.select([pipe], [], [], timeout)[0]:
            raise BenchError(f"{self.program.name} did not answer in {timeout:.0f} s{self.program.said()}")
        line = pipe.readline()
        if not line:
            raise BenchError(f"{self.program.name} ended{self.program.said()}")
        return line

    def _answers(self) -> IO[str]:
        pipe = self.program.process.stdout
        if pipe is None:
            raise BenchError(f"{self.program.name} was started without pipes")
        return pipe


def load_command(role: str, endpoint: ProgramAddress) -> list[str]:
    """Return the command that runs one end of the load."""
    return Rig.module("load", role, endpoint)


def _dying_with_us() -> list[str]:
    tool = shutil.which("setpriv")
    return [tool, "--pdeathsig=KILL", "--"] if tool else []
