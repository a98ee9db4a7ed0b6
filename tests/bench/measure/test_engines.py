"""Engines side by side: each is measured with each suite that it supports."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.compiled_engine import PROVIDERS, build_strictly, ipsec_mb
from tunnel.bench.measure import engines
from tunnel.engine.binding import SUITES, LibraryError


def test_every_engine_with_every_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_strictly(tmp_path)
    monkeypatch.setattr(engines, "HERE", tmp_path)
    monkeypatch.setattr(engines, "IPSEC_MB", ipsec_mb())
    monkeypatch.setattr(engines, "ROUNDS", 1)
    costs = list(engines.measure(turns=1))
    assert [cost.suite for cost in costs if cost.engine == "cryptography"] == [*SUITES]
    assert [cost.suite for cost in costs if cost.engine.startswith("libcrypto")] == [*SUITES]
    if "libipsec-mb" in PROVIDERS:
        assert [cost.suite for cost in costs if cost.engine.startswith("libipsec-mb")] == [*SUITES[:2]]
    assert min(min(cost.seal, cost.open) for cost in costs) > 0


def test_an_engine_that_was_not_built_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "HERE", tmp_path)
    with pytest.raises(LibraryError, match=r"engine-\w+\.so\.1"):
        next(engines.measure(turns=1))


def test_the_table() -> None:
    cost = engines.EngineCost("libcrypto 3.5.1", SUITES[0], 0.0994, 0.1006, 1.234)
    python = engines.EngineCost("cryptography", SUITES[0], 0.12, 0.13, None)
    table = engines.show(iter([cost, python]))
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert rows == [
        ("libcrypto 3.5.1", SUITES[0], "0.099", "0.101", "1.23"),
        ("cryptography", SUITES[0], "0.120", "0.130", ""),
    ]
