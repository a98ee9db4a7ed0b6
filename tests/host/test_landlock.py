"""Restricted files cannot be opened, also by child processes; others can be opened as before."""

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


def test_only_allowed_access_succeeds(tmp_path: Path) -> None:
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


def test_the_kernel_supports_landlock() -> None:
    """Debian's kernels support it since 12; without it these tests would prove nothing."""
    assert landlock.version() >= 2


def test_without_landlock_nothing_is_restricted() -> None:
    code = """
        import os
        from tunnel.host import landlock
        landlock.version = lambda: 0
        print(landlock.restrict({}), len(os.listdir("/")) > 0)
    """
    assert confined.run(code) == "0 True\n"
