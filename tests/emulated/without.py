"""Tests of a kernel without TLS: ``test_emulated_kernel`` runs this in a machine without the module."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.configs import HOST, TLS, write_config
from tests.support.pki import Pki
from tunnel.daemon.config import load
from tunnel.daemon.preflight import preflight
from tunnel.errors import ConfigError
from tunnel.tls.lane_kinds import LaneKind


@pytest.fixture
def directory(tmp: Path) -> Path:
    """A directory with certificates for hosta."""
    Pki(tmp).host("hosta")
    return tmp


def test_auto_takes_userspace_lanes_with_the_reason(directory: Path) -> None:
    contexts = preflight(load(write_config(directory, HOST, TLS)), "mtunnel.toml")
    assert contexts.lane is LaneKind.USERSPACE
    assert contexts.kernel.reason == "module tls not loaded; optional"


def test_configured_kernel_lanes_are_refused_with_the_reason(directory: Path) -> None:
    config = load(write_config(directory, HOST, TLS, '[transport]\nlane = "kernel"\n'))
    with pytest.raises(ConfigError) as caught:
        preflight(config, "mtunnel.toml")
    problem = "kernel lanes are not available: module tls not loaded (modprobe tls); or use auto or userspace"
    assert caught.value.problems == (("transport.lane", problem),)
    assert caught.value.exit_code == 2
