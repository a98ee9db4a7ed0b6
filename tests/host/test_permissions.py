"""Users who could change or replace a file are named, and no others."""

from __future__ import annotations

import grp
import os
import pwd
import struct
from pathlib import Path

import pytest

from tests.support.users import NOBODY
from tunnel.host import permissions
from tunnel.host.permissions import open_to_everybody, weakness, weakness_of_directory

# Tags of ACL entries: linux/posix_acl.h.
OWNER, USER, GROUP_OWNER, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NONE = 2**32 - 1


@pytest.fixture
def file(tmp: Path) -> Path:
    """A file two directories down."""
    tmp.chmod(0o755)
    path = tmp / "directory" / "file"
    path.parent.mkdir()
    path.touch()
    return path


def test_a_file_that_only_this_user_can_write_is_safe(file: Path) -> None:
    assert weakness(file) is None
    assert weakness(file.parent / ".." / "directory" / "file") is None
    assert weakness(file.with_name("none")) is None
    assert weakness_of_directory(file.parent) is None
    assert weakness_of_directory(file.parent / "not" / "yet") is None


def test_directories_of_the_system_are_safe() -> None:
    for path in ("/etc/passwd", "/run/mtunnel", "/var/run/mtunnel"):
        assert weakness(Path(path)) is None


@pytest.mark.parametrize(
    ("mode", "who"),
    [(0o666, "every user"), (0o602, "every user"), (0o660, "the group"), (0o1666, "every user")],
)
@pytest.mark.root
def test_writable_file_is_not_safe(file: Path, mode: int, who: str) -> None:
    file.chmod(mode)
    found = weakness(file)
    assert found is not None
    assert found.startswith(who)
    assert f"can write to the file {file} (mode {mode:04o}): run chmod g" in found


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_file_below_a_writable_directory_is_not_safe(file: Path, mode: int) -> None:
    file.parent.chmod(mode)
    assert f"can write to the directory {file.parent} (mode {mode:04o})" in str(weakness(file))


@pytest.mark.root
def test_sticky_directory_may_be_on_the_path_but_not_hold_our_files(file: Path) -> None:
    file.parent.chmod(0o1777)
    assert weakness(file) is None, "only its owner can remove the file"
    assert f"every user can write to the directory {file.parent}" in str(weakness_of_directory(file.parent))
    missing = file.parent / "not" / "yet"
    assert f"every user can write to the directory {file.parent}" in str(weakness_of_directory(missing))


@pytest.mark.root
@pytest.mark.parametrize("which", ["file", "directory"])
def test_other_owner_is_named(file: Path, which: str) -> None:
    path = file if which == "file" else file.parent
    os.chown(path, NOBODY, 0)
    assert weakness(file) == f"the {which} {path} is owned by nobody: chown it to root, or use another path"


@pytest.mark.root
def test_trusted_users_may_own_directories(file: Path) -> None:
    os.chown(file.parent, NOBODY, 0)
    for place in (file.parent, file.parent / "not" / "yet"):
        assert weakness_of_directory(place, {NOBODY}) is None
        assert "is owned by nobody: chown it to root" in str(weakness_of_directory(place))


@pytest.mark.root
def test_trusted_users_may_not_own_symbolic_links(file: Path, tmp: Path) -> None:
    (file.parent / "link").symlink_to("/run")
    os.chown(file.parent / "link", NOBODY, 0, follow_symlinks=False)
    assert "the symbolic link" in str(weakness_of_directory(file.parent / "link", {NOBODY}))


@pytest.mark.root
@pytest.mark.parametrize(
    ("entry", "mask", "who"),
    [
        ((USER, 6, NOBODY), 7, "the user nobody can write to the {} by its ACL: run setfacl -b on it"),
        ((USER, 6, NOBODY), 4, None),
        ((USER, 4, NOBODY), 7, None),
        ((USER, 7, 0), 7, None),
        ((GROUP, 6, 4711), 7, "the group 4711 can write to the {} (mode 0{}): run chmod g-w on it"),
        ((GROUP_OWNER, 6, NONE), 7, "the group root can write to the {} (mode 0{}): run chmod g-w on it"),
    ],
)
@pytest.mark.parametrize("which", ["file", "directory"])
def test_acl_entries_are_checked(
    file: Path, which: str, entry: tuple[int, int, int], mask: int, who: str | None
) -> None:
    path = file if which == "file" else file.parent
    entries = [(OWNER, 7, NONE), entry, (GROUP_OWNER, 0, NONE), (MASK, mask, NONE), (OTHER, 0, NONE)]
    if entry[0] == GROUP_OWNER:
        del entries[2]
    raw = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in sorted(entries))
    os.setxattr(path, "system.posix_acl_access", raw)
    expected = who and who.format(f"{which} {path}", f"{path.stat().st_mode & 0o777:o}")
    assert weakness(file) == expected


@pytest.mark.root
def test_directory_is_open_where_any_user_could_create_a_socket(file: Path) -> None:
    os.chown(file.parent, NOBODY, 0)
    file.parent.chmod(0o775)
    assert open_to_everybody(file.parent) is None, "owners are not checked"
    for mode in (0o777, 0o1777):
        file.parent.chmod(mode)
        for place in (file.parent, file.parent / "not" / "yet"):
            assert f"every user can write to the directory {file.parent}" in str(open_to_everybody(place))
    (file.parent / "inner").mkdir()
    assert open_to_everybody(file.parent / "inner") is None, "only its owner can remove it"


@pytest.mark.root
def test_symbolic_links_are_followed_and_checked(file: Path, tmp: Path) -> None:
    (tmp / "link").symlink_to("directory/file")
    (tmp / "absolute").symlink_to(file)
    assert weakness(tmp / "link") is None
    assert weakness(tmp / "absolute") is None
    file.parent.chmod(0o777)
    for link in (tmp / "link", tmp / "absolute"):
        assert f"the directory {file.parent}" in str(weakness(link))
    file.parent.chmod(0o755)
    os.chown(tmp / "link", NOBODY, 0, follow_symlinks=False)
    assert weakness(tmp / "link") == (
        f"the symbolic link {tmp}/link is owned by nobody: chown it to root, or use another path"
    )


def test_symbolic_link_loops_end(tmp: Path) -> None:
    (tmp / "round").symlink_to("round")
    assert weakness(tmp / "round") is None


@pytest.mark.root
def test_private_group_counts_as_its_user(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each user has a private group, files are created with mode 0664."""
    alice = pwd.struct_passwd(("alice", "x", 4001, 4001, "", "/", "/bin/sh"))
    members: list[str] = []
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: alice)
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group(("alice", "x", 4001, members)))
    monkeypatch.setattr(permissions, "user_name", str)
    os.chown(file.parent, 4001, 4001)
    file.parent.chmod(0o775)
    assert weakness_of_directory(file.parent, {4001}) is None
    members.append("bob")
    assert "the group alice can write" in str(weakness_of_directory(file.parent, {4001}))
