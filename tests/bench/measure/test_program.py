"""A started program: its CPU time and memory with all children, its sockets, its output tail."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tunnel.bench.measure import program
from tunnel.bench.measure.endpoint import ProgramAddress, free_tcp
from tunnel.bench.measure.program import BenchError, Program
from tunnel.bench.measure.rig import Rig
from tunnel.units import MIB


@pytest.fixture
def rig(tmp: Path) -> Iterator[Rig]:
    with Rig(tmp) as started:
        yield started


def _python(rig: Rig, code: str) -> Program:
    """Start ``code`` and wait until it has run; the program then waits for input."""
    program = rig.start(
        "program", [sys.executable, "-c", code + "\nprint('done', flush=True); input()"], talks=True
    )
    assert program.process.stdout is not None
    assert program.process.stdout.readline() == "done\n"
    return program


BUSY = "import time\nwhile time.process_time() < 0.3: pass"


def test_cpu_time_is_counted(rig: Rig) -> None:
    assert _python(rig, BUSY).cpu_seconds() >= 0.28  # the kernel counts in ticks of 10 ms


def test_cpu_time_of_threads_is_counted(rig: Rig) -> None:
    code = (
        "import threading\n"
        f"thread = threading.Thread(target=lambda: exec({BUSY!r}))\n"
        "thread.start(); thread.join()"
    )
    assert _python(rig, code).cpu_seconds() >= 0.28


def test_cpu_time_of_exited_children_is_counted(rig: Rig) -> None:
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}])"
    assert _python(rig, code).cpu_seconds() >= 0.28


def test_cpu_time_of_running_children_is_counted(rig: Rig) -> None:
    child = BUSY + "\nprint(flush=True); input()"
    code = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=-1, stdout=-1)\n"
        "child.stdout.readline()"
    )
    assert _python(rig, code).cpu_seconds() >= 0.28


def test_peak_memory_is_kept_after_it_was_freed(rig: Rig) -> None:
    memory = _python(rig, f"block = b'x' * (64 * {MIB}); del block").memory()
    assert memory.peak >= 64 * MIB
    assert memory.now < 64 * MIB


def test_memory_of_children_is_counted(rig: Rig) -> None:
    child = f"block = b'x' * (64 * {MIB})\nprint(flush=True); input()"
    code = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=-1, stdout=-1)\n"
        "child.stdout.readline()"
    )
    assert _python(rig, code).memory().now >= 64 * MIB


LISTENING = (
    "import socket, sys\nserver = socket.create_server((sys.argv[1], int(sys.argv[2])))\nsys.stdin.read()"
)


def test_waiting_for_a_listener_ends_when_it_listens(rig: Rig) -> None:
    endpoint = free_tcp("127.0.0.2")
    command = [sys.executable, "-c", LISTENING, endpoint.host, str(endpoint.port)]
    rig.start("listener", command, talks=True).wait_listening(endpoint)
    endpoint.connect().close()


def test_a_program_that_never_listens_is_named(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnel.bench.measure.program.LISTEN_SECONDS", 0.1)
    with pytest.raises(BenchError, match=r"program is not listening on 127\.0\.0\.2:1 \(no output\)"):
        _python(rig, "pass").wait_listening(ProgramAddress("127.0.0.2", 1))


def test_a_listener_of_another_process_does_not_count(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnel.bench.measure.program.LISTEN_SECONDS", 0.1)
    endpoint = free_tcp("127.0.0.2")
    with endpoint.listen(), pytest.raises(BenchError, match="is not listening"):
        _python(rig, "pass").wait_listening(endpoint)


def test_a_unix_socket_that_is_bound_does_not_listen_yet(
    rig: Rig, tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnel.bench.measure.program.LISTEN_SECONDS", 0.1)
    endpoint = ProgramAddress(path=str(tmp / "in.sock"))
    bound = f"import socket; s = socket.socket(socket.AF_UNIX); s.bind({endpoint.path!r})"
    with pytest.raises(BenchError, match="is not listening"):
        _python(rig, bound).wait_listening(endpoint)
    with pytest.raises(ConnectionRefusedError):
        endpoint.connect()
    Path(endpoint.path).unlink()
    _python(rig, f"{bound}; s.listen()").wait_listening(endpoint)
    endpoint.connect().close()


def test_a_program_that_exits_instead_of_listening_is_an_error(rig: Rig) -> None:
    program = rig.start("broken", ["sh", "-c", "echo no such cipher >&2; exit 7"])
    with pytest.raises(BenchError, match=r"broken exited with status 7\n  no such cipher"):
        program.wait_listening(ProgramAddress("127.0.0.2", 1))


def test_a_program_that_has_exited_cannot_be_measured(rig: Rig) -> None:
    program = rig.start("short", ["true"])
    program.process.wait(timeout=10)
    with pytest.raises(BenchError, match="short exited with status 0"):
        program.cpu_seconds()


def test_only_the_tail_of_a_long_log_is_quoted(rig: Rig) -> None:
    program = rig.start("talker", ["seq", "100"])
    program.process.wait(timeout=10)
    assert program.said().split() == [str(number) for number in range(86, 101)]


def test_a_program_that_hides_its_sockets_is_found_by_its_port(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(process: psutil.Process, kind: str) -> None:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "net_connections", refuse)
    endpoint = free_tcp("127.0.0.2")
    code = f"import socket; s = socket.create_server(({endpoint.host!r}, {endpoint.port}))"
    _python(rig, code).wait_listening(endpoint)
    monkeypatch.setattr(program, "LISTEN_SECONDS", 0.1)
    with pytest.raises(BenchError, match="is not listening on"):
        _python(rig, "").wait_listening(free_tcp("127.0.0.2"))
