"""Files that a process has given up stay closed, also for what it starts; the others open as before."""

from __future__ import annotations

from pathlib import Path

from tests.support import confined
from tunnel.host import landlock

TRY = """
import subprocess, sys
from pathlib import Path
from tunnel.host.landlock import READ, RUN, SOCKETS, restrict

def tried(what):
    try:
        what()
    except OSError as error:
        return error.strerror
    return "done"

mine, readable, other = map(Path, sys.argv[1:])
restrict({Path("/usr"): RUN, Path("/lib64"): RUN, Path("/lib"): RUN, mine: SOCKETS, readable: READ,
          Path("/there/is/none"): READ})
print(tried(lambda: (mine / "a").touch()))
print(tried(lambda: (mine / "a").rename(mine / "b")))
print(tried(lambda: (mine / "b").unlink()))
print(tried(lambda: (readable / "file").read_text()))
print(tried(lambda: (readable / "file").write_text("x")))
print(tried(lambda: (readable / "new").touch()))
print(tried(lambda: (other / "file").read_text()))
print(tried(lambda: list(other.iterdir())))
told = subprocess.run(["/usr/bin/cat", other / "file"], capture_output=True, text=True).stderr.strip()
print(told.removeprefix("/usr/bin/"))  # newer ones name themselves without it
"""


def test_only_what_is_allowed_can_be_done(tmp_path: Path) -> None:
    mine, readable, other = (tmp_path / name for name in ("mine", "readable", "other"))
    for directory in (mine, readable, other):
        directory.mkdir()
        (directory / "file").write_text("text")
    denied = "Permission denied"
    assert confined.run(TRY, mine, readable, other).splitlines() == [
        *("done", "done", "done"),
        *("done", denied, denied),
        *(denied, denied),
        f"cat: {other}/file: {denied}",
    ]


def test_the_kernel_has_it_where_tests_run() -> None:
    """Debian's kernels have had it since 12; without it the tests here would show nothing."""
    assert landlock.version() >= 2


def test_without_it_nothing_is_restricted() -> None:
    code = """
        import os
        from tunnel.transport import landlock
        landlock.version = lambda: 0
        print(landlock.restrict({}), len(os.listdir("/")) > 0)
    """
    assert confined.run(code) == "0 True\n"
