"""Conflicting options of a migration are refused by name, and those that the other backend has."""

from __future__ import annotations

import dataclasses

import pytest

from tunnel.errors import UsageError
from tunnel.units import MIB
from tunnel.virt.move_options import DEFAULTS, Action, MoveOptions, Storage


def change(**changes: object) -> MoveOptions:
    return dataclasses.replace(DEFAULTS, **changes)  # type: ignore[arg-type]  # fields of several types


@pytest.mark.parametrize("libvirt", [True, False])
def test_defaults_are_valid(libvirt: bool) -> None:
    DEFAULTS.check(libvirt=libvirt)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"postcopy_preempt": True}, "--postcopy-preempt needs --qmp"),
        ({"return_path": False}, "--no-return-path needs --qmp"),
        ({"postcopy": True, "parallel": 2}, "--postcopy and --parallel"),
        ({"timeout_action": Action.POSTCOPY, "timeout": 1.0}, "needs --postcopy"),
        ({"timeout_action": Action.ABORT}, "needs --timeout"),
        ({"postcopy_resume": True}, "--postcopy-resume needs --postcopy"),
        ({"bandwidth": MIB - 1}, "the minimum is 1MiB"),
    ],
)
def test_through_libvirt(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        change(**changes).check(libvirt=True)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"p2p": False}, "--direct is a libvirt option: it cannot be combined with --qmp"),
        ({"live": False}, "--no-live"),
        ({"postcopy_resume": True}, "--postcopy-resume"),
        ({"copy_storage": Storage.ALL}, "--copy-storage"),
        ({"persist": True}, "--persist"),
        ({"undefine_source": True}, "--undefine-source"),
        ({"tls_destination": "hostb"}, "--tls-destination"),
        ({"postcopy_preempt": True}, "--postcopy-preempt needs --postcopy"),
        ({"postcopy": True, "return_path": False}, "needs the return path"),
    ],
)
def test_without_libvirt(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        change(**changes).check(libvirt=False)
    change(bandwidth=1).check(libvirt=False)


def test_postcopy_begins_after_a_pass_or_at_the_timeout() -> None:
    assert change(postcopy=True, timeout=5.0).switch_at == 2
    assert change(postcopy=True, switch_after=0).switch_at == 1
    assert change(postcopy=True, timeout=5.0, timeout_action=Action.POSTCOPY).switch_at is None
    assert DEFAULTS.switch_at is None
