"""Dropped capabilities cannot be regained, and core dumps are disabled."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import confined
from tunnel.host import privileges
from tunnel.host.privileges import Capability, has

STATUS = """
import re, subprocess
from tunnel.host.privileges import Capability, keep_only
print(*keep_only([Capability.NET_ADMIN, Capability.CHOWN]))
for argv in (["/usr/bin/cat", "/proc/self/status"],):
    text = open("/proc/self/status").read() + subprocess.run(argv, capture_output=True, text=True).stdout
    print(*re.findall(r"Cap(?:Prm|Eff|Bnd|Inh):\\s+([0-9a-f]+)", text))
"""


@pytest.mark.root
def test_root_keeps_only_the_given_capabilities() -> None:
    """In this process, and in programs that it starts as root."""
    kept, masks = confined.run(STATUS).splitlines()
    assert kept == "CAP_CHOWN CAP_NET_ADMIN"
    assert set(masks.split()) == {f"{1 << 0 | 1 << 12:016x}"}


def test_no_capability_is_gained() -> None:
    code = """
        import os
        from tunnel.host.privileges import Capability, keep_only, permitted
        if os.geteuid() == 0:
            os.setresuid(65534, 65534, 65534)
        before = permitted()
        print(before, keep_only(list(Capability)), permitted())
    """
    assert confined.run(code) == "0 [] 0\n"


def test_core_dumps_and_ptrace_are_disabled() -> None:
    code = """
        import ctypes, resource
        from tunnel.host.privileges import forbid_core_dumps
        forbid_core_dumps()
        print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
    """
    assert confined.run(code) == "(0, 0) 0\n"


@pytest.mark.parametrize(
    ("mask", "admin", "bind"), [("1400", True, True), ("1000", True, False), ("0", False, False)]
)
def test_effective_capabilities_are_checked(
    tmp: Path, monkeypatch: pytest.MonkeyPatch, mask: str, admin: bool, bind: bool
) -> None:
    status = tmp / "status"
    status.write_text(f"CapPrm:\tffff\nCapEff:\t{mask}\nCapBnd:\tffff\n")
    monkeypatch.setattr(privileges, "_PROCESS_STATUS", status)
    assert (has(Capability.NET_ADMIN), has(Capability.NET_BIND_SERVICE)) == (admin, bind)


@pytest.mark.parametrize("content", [None, "Name:\tmtunnel\n"])
def test_unreadable_capabilities_are_left_to_the_system_call(
    tmp: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    status = tmp / "status"
    if content is not None:
        status.write_text(content)
    monkeypatch.setattr(privileges, "_PROCESS_STATUS", status)
    assert has(Capability.NET_ADMIN)
