"""Capabilities of this process, as /proc tells them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunnel.transport import capabilities
from tunnel.transport.capabilities import NET_ADMIN, NET_BIND_SERVICE, has


@pytest.mark.parametrize(
    ("mask", "admin", "bind"), [("1400", True, True), ("1000", True, False), ("0", False, False)]
)
def test_effective_ones_count(
    tmp: Path, monkeypatch: pytest.MonkeyPatch, mask: str, admin: bool, bind: bool
) -> None:
    status = tmp / "status"
    status.write_text(f"CapPrm:\tffff\nCapEff:\t{mask}\nCapBnd:\tffff\n")
    monkeypatch.setattr(capabilities, "_PROCESS_STATUS", status)
    assert (has(NET_ADMIN), has(NET_BIND_SERVICE)) == (admin, bind)


@pytest.mark.parametrize("content", [None, "Name:\tmtunnel\n"])
def test_where_nothing_can_be_read_the_system_call_will_tell(
    tmp: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    status = tmp / "status"
    if content is not None:
        status.write_text(content)
    monkeypatch.setattr(capabilities, "_PROCESS_STATUS", status)
    assert has(NET_ADMIN)
