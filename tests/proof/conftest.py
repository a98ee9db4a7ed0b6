"""The guest fixtures of these tests."""

from __future__ import annotations

from tests.support.guests import qemu, trial

__all__ = ["qemu", "trial"]
