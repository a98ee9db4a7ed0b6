"""Who starts first is the daemon; a second one is told so, and a killed one leaves nothing in the way."""

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
    """A process that has the control socket."""
    argv = [sys.executable, "-c", HOLD, str(control)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_second_daemon_is_told_who_the_first_is(tmp: Path) -> None:
    control = tmp / "run" / "control.sock"
    assert holder(control) is None
    with daemon(control) as first:
        assert holder(control) == first.pid
        with pytest.raises(UsageError) as caught, claimed(control):
            pass
        assert str(caught.value) == (
            f"another mtunnel serve (process {first.pid}) has the control socket {control}:"
            " is this daemon running already?"
        )
        with claimed(tmp / "run" / "other.sock"):
            pass
    assert holder(control) is None


def test_killed_daemon_leaves_nothing_in_the_way(tmp: Path) -> None:
    control = tmp / "control.sock"
    with daemon(control) as first:
        first.kill()
        first.wait(10)
        with claimed(control):
            pass
    assert oct(control.with_name("control.sock.lock").stat().st_mode & 0o777) == "0o600"


def test_link_in_the_place_of_the_lock_is_not_followed(tmp: Path) -> None:
    (tmp / "precious").write_text("precious")
    (tmp / "control.sock.lock").symlink_to(tmp / "precious")
    before = (tmp / "precious").stat()
    with claimed(tmp / "control.sock"):
        assert holder(tmp / "control.sock") is None
    assert (tmp / "precious").stat() == before


def test_where_no_lock_can_be_preflight_says_why() -> None:
    with claimed(Path("/proc/none/control.sock")):
        assert holder(Path("/proc/none/control.sock")) is None
