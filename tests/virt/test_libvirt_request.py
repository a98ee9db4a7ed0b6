"""Each option maps to libvirt's flag and typed parameters, and nothing else."""

from __future__ import annotations

import dataclasses

import libvirt
import pytest

from tunnel.units import MIB
from tunnel.virt.libvirt_request import LibvirtRoute, flags, parameters
from tunnel.virt.move_options import DEFAULTS, MoveOptions, Storage

PLAIN = LibvirtRoute("tcp://127.0.1.2")
ROUTE = LibvirtRoute("tcp://127.0.1.2:49152", "127.0.0.1", 49153, "unix:///run/m/disks")
FULL = MoveOptions(
    postcopy=True,
    postcopy_resume=True,
    parallel=4,
    copy_storage=Storage.ALL,
    persist=True,
    undefine_source=True,
    bandwidth=100 * MIB,
    auto_converge=True,
    tls_destination="hostb",
)


def test_default_is_live_and_peer_to_peer() -> None:
    assert flags(DEFAULTS) == {"LIVE", "PEER2PEER"}
    assert parameters(DEFAULTS, PLAIN) == {"migrate_uri": "tcp://127.0.1.2"}


@pytest.mark.parametrize(
    ("change", "added", "removed"),
    [
        ({"p2p": False}, set(), {"PEER2PEER"}),
        ({"live": False}, set(), {"LIVE"}),
        ({"postcopy": True}, {"POSTCOPY"}, set()),
        ({"postcopy_resume": True}, {"POSTCOPY_RESUME"}, set()),
        ({"parallel": 4}, {"PARALLEL"}, set()),
        ({"copy_storage": Storage.ALL}, {"NON_SHARED_DISK"}, set()),
        ({"copy_storage": Storage.INC}, {"NON_SHARED_INC"}, set()),
        ({"persist": True}, {"PERSIST_DEST"}, set()),
        ({"undefine_source": True}, {"UNDEFINE_SOURCE"}, set()),
        ({"auto_converge": True}, {"AUTO_CONVERGE"}, set()),
        ({"tls_destination": "hostb"}, {"TLS"}, set()),
    ],
)
def test_each_option_is_one_flag(change: dict[str, object], added: set[str], removed: set[str]) -> None:
    changed = dataclasses.replace(DEFAULTS, **change)  # type: ignore[arg-type]  # one field of each kind
    assert flags(changed) == (flags(DEFAULTS) | added) - removed


def test_every_flag_and_parameter_exists_in_libvirt() -> None:
    names = flags(FULL) | flags(dataclasses.replace(FULL, copy_storage=Storage.INC))
    assert all(isinstance(getattr(libvirt, f"VIR_MIGRATE_{name}"), int) for name in names)
    known = {getattr(libvirt, name) for name in dir(libvirt) if name.startswith("VIR_MIGRATE_PARAM_")}
    assert set(parameters(FULL, ROUTE)) <= known
    assert parameters(FULL, ROUTE) == {
        "migrate_uri": "tcp://127.0.1.2:49152",
        "listen_address": "127.0.0.1",
        "disks_port": 49153,
        "disks_uri": "unix:///run/m/disks",
        "parallel.connections": 4,
        "bandwidth": 100,
        "bandwidth.postcopy": 100,
        "tls.destination": "hostb",
    }


def test_disk_parameters_need_copied_disks() -> None:
    given = dataclasses.replace(PLAIN, disks_port=49153, disks_uri="unix:///run/m/disks")
    assert parameters(DEFAULTS, given) == parameters(DEFAULTS, PLAIN)
