"""Fixtures of the lab's tests: a lab that is up, and host plans without a lab."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.lab import lab, module_lab
from tunnel.bench.lab.host_plan import LabHostPlan, plan

__all__ = ["lab", "module_lab"]


@pytest.fixture
def plans(tmp: Path) -> tuple[LabHostPlan, LabHostPlan]:
    """The host plans of a lab that is not up."""
    return plan(tmp)
