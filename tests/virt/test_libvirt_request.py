"""Each option maps to libvirt's flag and typed parameters, and nothing else."""

from __future__ import annotations

import dataclasses

import libvirt
import pytest

from tunnel.errors import UsageError
from tunnel.units import MIB
from tunnel.virt.libvirt_request import Request, Storage, flags, parameters

PLAIN = Request("tcp://127.0.1.2")
FULL = Request(
    migrate_uri="tcp://127.0.1.2:49152",
    listen_address="127.0.0.1",
    disks_port=49153,
    disks_uri="unix:///run/m/disks",
    postcopy=True,
    postcopy_resume=True,
    parallel=4,
    storage=Storage.ALL,
    persist=True,
    undefine_source=True,
    bandwidth=100 * MIB,
    auto_converge=True,
    tls_destination="hostb",
)


def test_default_is_live_and_peer_to_peer() -> None:
    assert flags(PLAIN) == {"LIVE", "PEER2PEER"}
    assert parameters(PLAIN) == {"migrate_uri": "tcp://127.0.1.2"}


@pytest.mark.parametrize(
    ("change", "added", "removed"),
    [
        ({"p2p": False}, set(), {"PEER2PEER"}),
        ({"live": False}, set(), {"LIVE"}),
        ({"postcopy": True}, {"POSTCOPY"}, set()),
        ({"postcopy_resume": True}, {"POSTCOPY_RESUME"}, set()),
        ({"parallel": 4}, {"PARALLEL"}, set()),
        ({"storage": Storage.ALL}, {"NON_SHARED_DISK"}, set()),
        ({"storage": Storage.INC}, {"NON_SHARED_INC"}, set()),
        ({"persist": True}, {"PERSIST_DEST"}, set()),
        ({"undefine_source": True}, {"UNDEFINE_SOURCE"}, set()),
        ({"auto_converge": True}, {"AUTO_CONVERGE"}, set()),
        ({"tls_destination": "hostb"}, {"TLS"}, set()),
    ],
)
def test_each_option_is_one_flag(change: dict[str, object], added: set[str], removed: set[str]) -> None:
    changed = dataclasses.replace(PLAIN, **change)  # type: ignore[arg-type]  # one field of each kind
    assert flags(changed) == (flags(PLAIN) | added) - removed


def test_every_flag_and_parameter_exists_in_libvirt() -> None:
    names = flags(FULL) | flags(dataclasses.replace(FULL, storage=Storage.INC))
    assert all(isinstance(getattr(libvirt, f"VIR_MIGRATE_{name}"), int) for name in names)
    known = {getattr(libvirt, name) for name in dir(libvirt) if name.startswith("VIR_MIGRATE_PARAM_")}
    assert set(parameters(FULL)) <= known
    assert parameters(FULL) == {
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
    assert parameters(given) == parameters(PLAIN)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"postcopy_resume": True}, "--postcopy-resume needs --postcopy"),
        ({"postcopy": True, "parallel": 2}, "cannot be combined"),
        ({"bandwidth": MIB - 1}, "the minimum is 1MiB"),
    ],
)
def test_conflicting_options_are_refused(change: dict[str, object], complaint: str) -> None:
    wrong = dataclasses.replace(PLAIN, **change)  # type: ignore[arg-type]  # one field of each kind
    with pytest.raises(UsageError, match=complaint):
        wrong.check()
    PLAIN.check()
