"""Conflicting options of ``mtunnel migrate`` are refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.support.configs import HOST, PEER, TLS, write_config
from tunnel.cli.migrate.order import MigrateArguments
from tunnel.daemon.config import load
from tunnel.errors import UsageError
from tunnel.virt.libvirt_request import Storage
from tunnel.virt.move import Action


@pytest.fixture
def order(tmp_path: Path) -> MigrateArguments:
    """The defaults: through libvirt."""
    return MigrateArguments(load(write_config(tmp_path, HOST, TLS, PEER)), "web1", "hostb")


def change(order: MigrateArguments, **changes: object) -> MigrateArguments:
    return dataclasses.replace(order, **changes)  # type: ignore[arg-type]  # fields of several types


def test_defaults_are_valid_with_and_without_libvirt(order: MigrateArguments) -> None:
    order.check()
    change(order, qmp=Path("/run/web1.qmp"), guest=None).check()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"guest": None}, "mtunnel migrate GUEST PEER"),
        ({"dest_qmp": Path("/x")}, "--dest-qmp needs --qmp"),
        ({"postcopy_preempt": True}, "--postcopy-preempt needs --qmp"),
        ({"return_path": False}, "--no-return-path needs --qmp"),
        ({"postcopy": True, "parallel": 2}, "--postcopy and --parallel"),
        ({"timeout_action": Action.POSTCOPY, "timeout": 1.0}, "needs --postcopy"),
        ({"timeout_action": Action.ABORT}, "needs --timeout"),
    ],
)
def test_through_libvirt(order: MigrateArguments, changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        change(order, **changes).check()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"p2p": False}, "--direct is a libvirt option"),
        ({"live": False}, "--no-live"),
        ({"postcopy_resume": True}, "--postcopy-resume"),
        ({"copy_storage": Storage.ALL}, "--copy-storage"),
        ({"persist": True}, "--persist"),
        ({"undefine_source": True}, "--undefine-source"),
        ({"desturi": "qemu:///system"}, "--desturi"),
        ({"tls_destination": "hostb"}, "--tls-destination"),
        ({"postcopy_preempt": True}, "--postcopy-preempt needs --postcopy"),
        ({"postcopy": True, "return_path": False}, "needs the return path"),
    ],
)
def test_without_libvirt(order: MigrateArguments, changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        change(order, qmp=Path("/run/web1.qmp"), **changes).check()


@pytest.mark.parametrize(
    ("changes", "disks", "streams"),
    [
        ({}, 0, 2),  # the main channel, and libvirt's connection
        ({"p2p": False}, 0, 1),
        ({"parallel": 255}, 0, 257),
        ({"parallel": 4}, 3, 9),
        ({"qmp": Path("/run/web1.qmp")}, 0, 1),
        ({"qmp": Path("/run/web1.qmp"), "postcopy": True, "postcopy_preempt": True}, 0, 2),
    ],
)
def test_number_of_streams(
    order: MigrateArguments, changes: dict[str, object], disks: int, streams: int
) -> None:
    assert change(order, **changes).streams(disks) == streams


def test_switch_is_late_only_with_a_timeout_action(order: MigrateArguments) -> None:
    late = change(order, postcopy=True, timeout=5.0, timeout_action=Action.POSTCOPY)
    late.check()
    assert late.switch_later
    assert not change(order, postcopy=True, timeout=5.0).switch_later


def test_unnamed_guest_is_labelled_by_its_socket(order: MigrateArguments) -> None:
    assert order.label == "web1"
    assert change(order, guest=None, qmp=Path("/run/db.qmp")).label == "db"
