"""The rig leaves no process behind in any case, and passes on the replies of programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tunnel.bench.lab.waiting import until
from tunnel.bench.measure.endpoint import free_tcp
from tunnel.bench.measure.program import BenchError
from tunnel.bench.measure.rig import Rig, Source

SLEEP = ["sleep", "300"]
STUBBORN = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"]


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _leave_with(error: type[BaseException], rig: Rig) -> None:
    with rig:
        rig.start("one", SLEEP)
        rig.start("two", SLEEP)
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_every_program_ends_with_the_block_also_after_an_error(tmp: Path, error: type[BaseException]) -> None:
    rig = Rig(tmp)
    with pytest.raises(error):
        _leave_with(error, rig)
    assert [program.process.poll() for program in rig.programs] == [-signal.SIGTERM, -signal.SIGTERM]


def test_a_program_that_ignores_sigterm_is_killed(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnel.bench.measure.rig._STOP_SECONDS", 0.2)
    with Rig(tmp) as rig:
        process = rig.start("stubborn", STUBBORN, talks=True).process
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    assert process.returncode == -signal.SIGKILL


def test_children_end_with_their_program(tmp: Path) -> None:
    with Rig(tmp) as rig:
        leader = psutil.Process(rig.start("parent", ["sh", "-c", "sleep 300 & wait"]).process.pid)
        until(lambda: any(child.name() == "sleep" for child in leader.children()), "for the child")
        (child,) = leader.children()
    until(lambda: not _is_alive(child.pid), "for the child to end")


def test_children_end_even_when_their_program_left_them_behind(tmp: Path) -> None:
    with Rig(tmp) as rig:
        program = rig.start("parent", ["sh", "-c", "sleep 300 >/dev/null & echo $!"], talks=True)
        assert program.process.stdout is not None
        orphan = int(program.process.stdout.readline())
        program.process.wait(timeout=10)
        assert _is_alive(orphan)
    until(lambda: not _is_alive(orphan), "for the orphan to end")


KILLED_RIG = """
import sys, time
from pathlib import Path
from tunnel.bench.measure.rig import Rig
with Rig(Path(sys.argv[1])) as rig:
    print(rig.start("one", ["sleep", "300"]).process.pid, flush=True)
    time.sleep(300)
"""


def test_programs_end_even_when_the_rig_is_killed(tmp: Path) -> None:
    command = [sys.executable, "-c", KILLED_RIG, str(tmp)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as rig:
        assert rig.stdout is not None
        pid = int(rig.stdout.readline())
        until(lambda: psutil.Process(pid).name() == "sleep", "for the program")
        os.kill(rig.pid, signal.SIGKILL)
    until(lambda: not _is_alive(pid), "for the program to end")


def test_a_missing_program_is_an_error(tmp: Path) -> None:
    with Rig(tmp) as rig, pytest.raises(BenchError, match=r"(cannot start|ghost exited with status 127)"):
        rig.start("ghost", ["/no/such/program"]).wait_listening(free_tcp("127.0.0.2"))


def test_one_program_can_be_stopped_before_the_others(tmp: Path) -> None:
    endpoint = free_tcp("127.0.0.2")
    with Rig(tmp) as rig:
        listener = rig.start_module("plain", "callers", "listen", endpoint)
        other = rig.start("other", SLEEP)
        with suppress(ConnectionResetError):  # it may reset the connection first
            endpoint.connect().close()
        rig.stop(listener)
        assert listener.process.poll() == -signal.SIGTERM
        other.check()


def _source(rig: Rig, answer: str) -> Source:
    return Source(rig.start("source", ["sh", "-c", f"echo asked >&2; {answer}"], talks=True))


def test_a_source_that_does_not_reply_in_time_is_an_error(tmp: Path) -> None:
    with Rig(tmp) as rig, pytest.raises(BenchError, match=r"source: no reply after 0 s"):
        _source(rig, "sleep 300").hear(timeout=0.1)


def test_the_output_of_a_source_that_exits_is_in_the_error(tmp: Path) -> None:
    with Rig(tmp) as rig, pytest.raises(BenchError, match=r"source exited\n  asked"):
        _source(rig, "exit 1").hear(timeout=10)


def test_a_command_to_a_source_that_has_exited_is_an_error(tmp: Path) -> None:
    with Rig(tmp) as rig:
        source = _source(rig, "exit 1")
        source.program.process.wait(timeout=10)
        with pytest.raises(BenchError, match="source has exited"):
            source.flood(1.0)


def test_a_source_that_does_not_exit_when_closed_is_an_error(
    tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnel.bench.measure.rig._STOP_SECONDS", 0.2)
    with Rig(tmp) as rig, pytest.raises(BenchError, match="source does not exit"):
        _source(rig, "exec sleep 300").close()


def test_a_source_that_exited_with_unread_input_can_be_closed(tmp: Path) -> None:
    with Rig(tmp) as rig:
        source = _source(rig, "exit 1")
        pipe = source.program.process.stdin
        assert pipe is not None
        pipe.write("never read")  # buffered in this process: closing would write it
        source.program.process.wait(timeout=10)
        source.close()
