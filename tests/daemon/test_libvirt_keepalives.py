"""libvirt's keepalive settings are read from its configuration files and compared to the resume window."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.configs import HOST, TLS, write_config
from tunnel.daemon.config import Config, load
from tunnel.daemon.libvirt_keepalives import SILENCE, LibvirtKeepalive, warning

CALLS = 'listen = "unix:/run/m/sock"\ntarget = "unix:/run/libvirt/libvirt-sock"'
MEMORY = 'listen = "unix:/run/m/sock"\ntarget = "unix:/run/qemu/web1.sock"'


def configured(
    directory: Path, window: str, *, ingress: str = MEMORY, egress: str = "unix:/run/qemu/*"
) -> Config:
    peer = f'[[peer]]\nname = "hostb"\naddress = "192.0.2.2:16515"\negress = ["{egress}"]\n'
    tables = (f'[transport]\nresume_window = "{window}"\n', peer, f'[[ingress]]\npeer = "hostb"\n{ingress}\n')
    return load(write_config(directory, HOST, TLS, *tables))


@pytest.mark.parametrize(
    ("ingress", "egress", "name"),
    [
        (CALLS, "unix:/run/qemu/*", "qemu.conf"),
        (MEMORY, "unix:/run/libvirt/libvirt-sock", "libvirtd.conf"),
        (MEMORY, "unix:/var/run/libvirt/libvirt-sock", "libvirtd.conf"),
        (MEMORY, "tcp:127.0.0.1:16509", "libvirtd.conf"),
        (MEMORY, "unix:/run/libvirt/virtqemud-sock", "virtqemud.conf"),
    ],
)
def test_client_and_server_have_separate_files(tmp: Path, ingress: str, egress: str, name: str) -> None:
    config = configured(tmp, "2min", ingress=ingress, egress=egress)
    text = warning(config, tmp)
    assert text.startswith(
        "libvirt connections go through links, and libvirt closes a connection that is silent"
    )
    assert f"silent for 30s (keepalive_interval * (keepalive_count + 1) in {tmp}/{name})" in text
    assert "resume_window (120s)" in text
    assert "Set keepalive_count = 28 there" in text
    assert text.endswith('resume_window = "30s"')
    (tmp / name).write_text("keepalive_count = 28\n")
    assert warning(config, tmp) == ""


def test_alternative_file_of_the_daemon_is_found(tmp: Path) -> None:
    (tmp / "virtproxyd.conf").write_text("")
    config = configured(tmp, "2min", ingress=CALLS, egress="unix:/run/libvirt/libvirt-sock")
    assert f"in {tmp}/qemu.conf and {tmp}/virtproxyd.conf)" in warning(config, tmp)


@pytest.mark.parametrize(
    ("window", "text", "told"),
    [
        ("30s", "", False),
        ("31s", "", True),
        ("31s", "#keepalive_count = 50\n", True),
        ("31s", "keepalive_interval = -1\n", False),
        ("31s", "keepalive_interval = 10\nkeepalive_count = 4", False),
        ("20s", "keepalive_interval=3", True),
        ("0s", "keepalive_count = 0", False),
    ],
)
def test_only_a_keepalive_shorter_than_the_window_is_reported(
    tmp: Path, window: str, text: str, told: bool
) -> None:
    (tmp / "qemu.conf").write_text(text)
    assert bool(warning(configured(tmp, window, ingress=CALLS), tmp)) is told


def test_no_warning_without_libvirt_connections_or_with_an_unreadable_file(tmp: Path) -> None:
    assert warning(configured(tmp, "1h"), tmp) == ""
    (tmp / "qemu.conf").mkdir()
    assert LibvirtKeepalive.read(tmp / "qemu.conf") is None
    assert warning(configured(tmp, "1h", ingress=CALLS), tmp) == ""


def test_a_fifo_does_not_block_and_an_oversized_number_is_ignored(tmp: Path) -> None:
    os.mkfifo(tmp / "pipe.conf")
    assert LibvirtKeepalive.read(tmp / "pipe.conf") is None
    (tmp / "qemu.conf").write_text(f"keepalive_count = {'9' * 5000}\nkeepalive_interval = 7\n")
    assert LibvirtKeepalive.read(tmp / "qemu.conf") == LibvirtKeepalive(tmp / "qemu.conf", interval=7)


def test_recommended_count_is_sufficient_whenever_the_silence_starts(tmp: Path) -> None:
    """The last message may be one interval old by then."""
    for interval in (1, 3, 5, 60):
        keepalive = LibvirtKeepalive(tmp, interval)
        advised = LibvirtKeepalive(tmp, interval, keepalive.count_for(100.0 + SILENCE))
        assert advised.patience - interval >= 100.0 + SILENCE
