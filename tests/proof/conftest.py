"""The guests that the tests of this folder move."""

from __future__ import annotations

from tests.support.guests import qemu, trial

__all__ = ["qemu", "trial"]
