"""Listening sockets are read from the kernel's tables, without a connection."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from tunnel.net import listening_sockets as module
from tunnel.net.listening_sockets import listening_at


def test_addresses_of_both_families_are_found() -> None:
    with socket.create_server(("127.0.0.9", 0)) as four:
        port = four.getsockname()[1]
        assert listening_at(port) == ["127.0.0.9"]
        with socket.create_server(("::1", port), family=socket.AF_INET6):
            assert listening_at(port) == ["127.0.0.9", "::1"]
        with socket.create_connection(("127.0.0.9", port)) as caller:
            assert listening_at(caller.getsockname()[1]) == [], "a connection is not a listening socket"
        four.setblocking(False)
        four.accept()[0].close()
        with pytest.raises(BlockingIOError):  # no connection was made
            four.accept()
    assert listening_at(port) == []


def test_unreadable_tables_yield_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TABLES", ((tmp_path / "none", socket.AF_INET),))
    assert listening_at(1) == []


def test_reading_stops_after_the_listening_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "tcp"
    row = "   {}: {}:0016 00000000:0000 {} 00000000:00000000 00:00000000 00000000 0 0 1 1\n"
    address = f"{int.from_bytes(socket.inet_aton('127.0.0.5'), sys.byteorder):08X}"
    rows = [row.format(0, address, "0A"), row.format(1, address, "01"), row.format(2, address, "0A")]
    table.write_text("  sl  local_address rem_address   st ...\n" + "".join(rows))
    monkeypatch.setattr(module, "_TABLES", ((table, socket.AF_INET),))
    assert listening_at(22) == ["127.0.0.5"]
