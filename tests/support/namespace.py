"""A private network namespace for a test, with only loopback in it, and its own firewall.

The test's thread enters it, and with it all processes and threads that it starts; existing ones stay outside.
It ends with the last process in it, so no teardown is needed.
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
    """Enter a new network namespace for the context."""
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
    """A private network namespace; needs root."""
    with own_network():
        yield


@pytest.fixture
def link_local(network: None) -> str:
    """A link-local address of this host, with its interface, in a private network namespace."""
    subprocess.run(["ip", "addr", "add", "fe80::7/64", "dev", "lo", "nodad"], check=True, timeout=60)
    return "fe80::7%lo"


def nft(*words: str) -> str:
    """Run an ``nft`` command; return its output."""
    done = subprocess.run(["nft", *words], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


def ruleset() -> str:
    """Return all tables of this network namespace, in the syntax of ``nft``."""
    return nft("list", "ruleset")


def tables() -> list[str]:
    """Return the names of all tables of this network namespace."""
    listed: dict[str, list[dict[str, Any]]] = json.loads(nft("-j", "list", "tables"))
    return [each["table"]["name"] for each in listed["nftables"] if "table" in each]


def _call(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
