"""The arguments of ``mtunnel migrate``: conflicts, the number of streams, and the label."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.support.configs import HOST, PEER, TLS, write_config
from tunnel.cli.migrate.order import MigrateArguments
from tunnel.daemon.config import load
from tunnel.errors import UsageError
from tunnel.virt.move_options import MoveOptions

QMP = Path("/run/web1.qmp")
PREEMPT = MoveOptions(postcopy=True, postcopy_preempt=True)


@pytest.fixture
def order(tmp_path: Path) -> MigrateArguments:
    """The defaults: through libvirt."""
    return MigrateArguments(load(write_config(tmp_path, HOST, TLS, PEER)), "web1", "hostb")


def change(order: MigrateArguments, **changes: object) -> MigrateArguments:
    return dataclasses.replace(order, **changes)  # type: ignore[arg-type]  # fields of several types


def test_defaults_are_valid_with_and_without_libvirt(order: MigrateArguments) -> None:
    order.check()
    change(order, qmp=QMP, guest=None).check()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"guest": None}, "mtunnel migrate GUEST PEER"),
        ({"dest_qmp": Path("/x")}, "--dest-qmp needs --qmp"),
        ({"qmp": QMP, "desturi": "qemu:///system"}, "--desturi is a libvirt option"),
        ({"options": PREEMPT}, "--postcopy-preempt needs --qmp"),
        ({"qmp": QMP, "options": MoveOptions(p2p=False)}, "--direct is a libvirt option"),
    ],
)
def test_conflicts_are_refused(order: MigrateArguments, changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        change(order, **changes).check()


@pytest.mark.parametrize(
    ("changes", "disks", "streams"),
    [
        ({}, 0, 2),  # the main channel, and libvirt's connection
        ({"options": MoveOptions(p2p=False)}, 0, 1),
        ({"options": MoveOptions(parallel=255)}, 0, 257),
        ({"options": MoveOptions(parallel=4)}, 3, 9),
        ({"qmp": QMP}, 0, 1),
        ({"qmp": QMP, "options": PREEMPT}, 0, 2),
    ],
)
def test_number_of_streams(
    order: MigrateArguments, changes: dict[str, object], disks: int, streams: int
) -> None:
    assert change(order, **changes).streams(disks) == streams


def test_unnamed_guest_is_labelled_by_its_socket(order: MigrateArguments) -> None:
    assert order.label == "web1"
    assert change(order, guest=None, qmp=Path("/run/db.qmp")).label == "db"
