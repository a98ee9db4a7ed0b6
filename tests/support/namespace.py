"""A network of a test's own, with nothing but loopback in it, and a firewall that nobody else has.

The test's thread enters it, and with it all processes and threads that it starts; whoever was there before
stays outside. It ends with the last process in it, so nothing has to be taken down.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CLONE_NEWNET = 0x40000000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def own_network() -> Iterator[None]:
    """Be in a new network namespace meanwhile."""
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call(_libc.unshare(CLONE_NEWNET))
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=60)
            yield
        finally:
            _call(_libc.setns(outside, CLONE_NEWNET))
    finally:
        os.close(outside)


@pytest.fixture
def network() -> Iterator[None]:
    """A network of the test's own; needs root."""
    with own_network():
        yield


@pytest.fixture
def link_local(network: None) -> str:
    """A link-local address of this host, with its interface, in a network of the test's own."""
    subprocess.run(["ip", "addr", "add", "fe80::7/64", "dev", "lo", "nodad"], check=True, timeout=60)
    return "fe80::7%lo"


def nft(*words: str) -> str:
    """What ``nft`` says to a command."""
    done = subprocess.run(["nft", *words], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


def ruleset() -> str:
    """All tables of this network, as ``nft`` writes them."""
    return nft("list", "ruleset")


def tables() -> list[str]:
    """The names of all tables of this network."""
    listed: dict[str, list[dict[str, Any]]] = json.loads(nft("-j", "list", "tables"))
    return [each["table"]["name"] for each in listed["nftables"] if "table" in each]


def _call(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
