"""Sockets are assigned to guests by their whole name, never to another guest."""

from __future__ import annotations

import pytest

from tunnel.daemon.socket_names import (
    carries_disks_of,
    carries_memory_of,
    is_for_any_disks,
    is_for_disks,
    is_monitor,
    may_be_anothers,
    stem,
)


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("web.sock", "web"),
        ("web.socket", "web"),
        ("web", "web"),
        ("web.1", "web.1"),
        ("a.sock.sock", "a.sock"),
    ],
)
def test_socket_suffix_is_not_part_of_the_name(name: str, bare: str) -> None:
    assert stem(f"/run/m/{name}") == bare


@pytest.mark.parametrize("name", ["web.sock", "web.socket", "web"])
def test_memory_uses_the_socket_of_that_name(name: str) -> None:
    assert carries_memory_of(f"/run/m/{name}", "web")


@pytest.mark.parametrize(
    "name", ["web-db.sock", "web9.sock", "web.db.sock", "myweb.sock", "WEB.sock", "web.qmp"]
)
def test_memory_uses_no_other_guests_socket(name: str) -> None:
    assert not carries_memory_of(f"/run/m/{name}", "web")


@pytest.mark.parametrize("name", ["web-disks.sock", "web_disk.sock", "web.nbd.socket", "web-nbd"])
def test_disks_use_the_socket_named_after_them(name: str) -> None:
    assert carries_disks_of(f"/run/m/{name}", "web")
    assert is_for_disks(f"/run/m/{name}")


@pytest.mark.parametrize(
    "name", ["web-db-disks.sock", "web.sock", "webdisks.sock", "nbdkit.sock", "disks.sock"]
)
def test_disks_use_no_other_guests_socket(name: str) -> None:
    assert not carries_disks_of(f"/run/m/{name}", "web")


@pytest.mark.parametrize(
    ("name", "disks", "anybodys"),
    [
        ("nbdkit.sock", False, False),
        ("nbdkit-disks.sock", True, False),
        ("diskless.sock", False, False),
        ("nbd.sock", True, True),
    ],
)
def test_word_for_disks_must_be_a_whole_word(name: str, disks: bool, anybodys: bool) -> None:
    assert (is_for_disks(f"/run/{name}"), is_for_any_disks(f"/run/{name}")) == (disks, anybodys)


def test_names_with_a_common_prefix_may_be_another_guests() -> None:
    assert may_be_anothers("/run/web-db.sock", "web")
    assert may_be_anothers("/run/web.sock", "web-db")
    assert not may_be_anothers("/run/web.sock", "web")
    assert not may_be_anothers("/run/migrate.sock", "web")


def test_monitor_is_recognized_by_its_suffix() -> None:
    assert is_monitor("/run/web.qmp")
    assert not is_monitor("/run/qmp.sock")
