"""What the lab's own tests share: a lab that is up, and hosts on paper."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.lab import lab, module_lab
from tunnel.bench.lab.host_plan import LabHostPlan, plan

__all__ = ["lab", "module_lab"]


@pytest.fixture
def plans(tmp: Path) -> tuple[LabHostPlan, LabHostPlan]:
    """The hosts of a lab that is not there."""
    return plan(tmp)
