"""The first daemon holds the lock; a second one is refused, and a killed one releases it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tunnel.daemon.instance_lock import claimed, holder
from tunnel.errors import UsageError

HOLD = "import sys; from pathlib import Path; from tunnel.daemon.instance_lock import claimed\n"
HOLD += "with claimed(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


@contextmanager
def daemon(control: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of the control socket."""
    argv = [sys.executable, "-c", HOLD, str(control)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_second_daemon_is_refused_with_the_process_id_of_the_first(tmp: Path) -> None:
    control = tmp / "run" / "control.sock"
    assert holder(control) is None
    with daemon(control) as first:
        assert holder(control) == first.pid
        with pytest.raises(UsageError) as caught, claimed(control):
            pass
        assert str(caught.value) == (
            f"another mtunnel daemon (process {first.pid}) holds the control socket {control}:"
            " is this daemon already running?"
        )
        with claimed(tmp / "run" / "other.sock"):
            pass
    assert holder(control) is None


def test_killed_daemon_releases_the_lock(tmp: Path) -> None:
    control = tmp / "control.sock"
    with daemon(control) as first:
        first.kill()
        first.wait(10)
        with claimed(control):
            pass
    assert oct(control.with_name("control.sock.lock").stat().st_mode & 0o777) == "0o600"


def test_symbolic_link_in_place_of_the_lock_file_is_not_followed(tmp: Path) -> None:
    (tmp / "precious").write_text("precious")
    (tmp / "control.sock.lock").symlink_to(tmp / "precious")
    before = (tmp / "precious").stat()
    with claimed(tmp / "control.sock"):
        assert holder(tmp / "control.sock") is None
    assert (tmp / "precious").stat() == before


def test_missing_lock_file_is_no_error() -> None:
    with claimed(Path("/proc/none/control.sock")):
        assert holder(Path("/proc/none/control.sock")) is None
