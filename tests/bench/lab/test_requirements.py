"""Everything that a machine lacks is reported together, with how to install it."""

from __future__ import annotations

import pytest

from tunnel.bench.lab import requirements
from tunnel.errors import UsageError


def test_a_machine_with_everything_lacks_nothing() -> None:
    assert requirements.missing(lambda program: program, uid=0) == []


def test_everything_that_is_missing_is_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "LIBRARIES", ("nonesuch", "non.esuch", "json"))
    present = set(requirements.PROGRAMS) - {"libvirtd", "virsh", "nsenter", "unshare"}
    lines = requirements.missing(lambda program: program if program in present else None, uid=1000)
    root, programs, libraries = lines
    assert root.startswith("root: ")
    assert programs == (
        "programs: libvirtd, virsh, nsenter, unshare "
        "(apt-get install --no-install-recommends libvirt-daemon-system libvirt-clients util-linux)"
    )
    assert libraries.startswith("Python packages: nonesuch, non.esuch (")


def test_the_error_has_every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "missing", lambda: ["this", "that"])
    with pytest.raises(UsageError, match=r"(?s)cannot set up the lab; missing:\n  this\n  that$"):
        requirements.check()


def test_nothing_missing_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "missing", list)
    requirements.check()
