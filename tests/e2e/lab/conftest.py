"""The shared fixtures of the end-to-end tests with libvirt: the two-host lab."""

from __future__ import annotations

from tests.support.lab import lab, module_lab

__all__ = ["lab", "module_lab"]
