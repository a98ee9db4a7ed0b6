"""Names of users are cached for messages, independent of NSS."""

from __future__ import annotations

import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunnel.host import users
from tunnel.host.users import local_names, uid_of, user_name


@pytest.fixture
def accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An /etc/passwd of the test, not read yet."""
    monkeypatch.setattr(users, "PASSWD", tmp_path / "passwd")
    monkeypatch.setattr(users, "_looked_up", {})
    local_names.cache_clear()
    yield tmp_path / "passwd"
    local_names.cache_clear()


def test_local_accounts_have_names_without_a_lookup(accounts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(pwd, "getpwuid")
    monkeypatch.delattr(pwd, "getpwnam")
    accounts.write_bytes(
        b"root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\n+::::::\n\nbad:x:-1:0:::\nqemu:x:107:107:\xff:/:/\n"
    )
    assert local_names() == {0: "root", 107: "qemu"}
    assert user_name(107) == "qemu"
    assert user_name(4_000_000_000) == "4000000000"


def test_without_the_file_uids_are_shown_as_numbers(accounts: Path) -> None:
    assert user_name(0) == "0"


def test_user_of_a_configuration_has_the_name_given_there(
    accounts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = pwd.struct_passwd(("alice", "x", 70_000, 70_000, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwnam", {"alice": account}.__getitem__)
    assert user_name(70_000) == "70000"
    assert uid_of("alice") == 70_000
    assert user_name(70_000) == "alice"
    with pytest.raises(KeyError):
        uid_of("bob")
