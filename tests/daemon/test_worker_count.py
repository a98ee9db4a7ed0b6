"""The number of workers of a daemon."""

from __future__ import annotations

import os

import pytest

from tunnel.daemon.config import Transport
from tunnel.daemon.worker_count import count_workers


@pytest.mark.parametrize(
    ("processors", "compiled", "expected"),
    [(1, True, 1), (2, True, 1), (3, True, 3), (8, True, 8), (64, True, 8), (64, False, 1)],
)
def test_auto(monkeypatch: pytest.MonkeyPatch, processors: int, compiled: bool, expected: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(processors)))
    assert count_workers(Transport(), compiled=compiled) == expected


@pytest.mark.parametrize("compiled", [True, False])
def test_as_configured(compiled: bool) -> None:
    assert count_workers(Transport(workers=5), compiled=compiled) == 5
