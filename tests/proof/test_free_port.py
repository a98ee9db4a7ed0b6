"""Ports for programs that listen a moment later."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest

from tunnel.proof.free_port import free_port

FIRST_OUTGOING = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def test_no_port_is_one_of_an_outgoing_connection() -> None:
    assert all(1024 <= free_port("127.0.0.3") < FIRST_OUTGOING for _ in range(50))


def test_each_is_returned_once() -> None:
    assert len({free_port("127.0.0.3") for _ in range(50)}) == 50


def test_a_port_occupied_at_one_of_the_addresses_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    occupied, other = free_port("127.0.0.3"), free_port("127.0.0.3")
    drawn = iter([occupied, other])
    monkeypatch.setattr("tunnel.proof.free_port._returned", set())
    monkeypatch.setattr(random, "randrange", lambda *_: next(drawn))
    with socket.create_server(("127.0.0.3", occupied)):
        assert free_port("127.0.0.2", "127.0.0.3") == other
