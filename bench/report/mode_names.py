"""The modes of ``bench migrate`` by names that need no explanation, and which of them encrypt."""

from __future__ import annotations

from tunnel.bench.measure.measurement import OURS
from tunnel.bench.measure.migration_modes import MODES, ON_REQUEST

_LABELS = {
    "native": "QEMU, one channel",
    "multifd-4": "QEMU, multifd, 4 channels",
    "native-tls": "QEMU's TLS, one channel",
    "multifd-tls-4": "QEMU's TLS, multifd, 4 channels",
    "multifd-tls-8": "QEMU's TLS, multifd, 8 channels",
    "tunnelled-tcp": "libvirt tunnelled over TCP",
    "tunnelled-tls": "libvirt tunnelled over TLS",
    "tunnelled-unix": "libvirt tunnelled over a socket",
    "mtunnel": "mtunnel, one stream",
    "mtunnel-multifd-4": "mtunnel, multifd, 4 channels",
    "mtunnel-multifd-8": "mtunnel, multifd, 8 channels",
    "mtunnel-postcopy": "mtunnel, post-copy",
    "mtunnel-cut": "mtunnel, lane reset 100 times",
}
_PLAIN = {mode.name for mode in (*MODES, *ON_REQUEST) if not mode.encrypts}


def label(mode: str) -> str:
    """Return the name of a mode for readers; that of an unknown mode is returned unchanged."""
    return _LABELS.get(mode, mode)


def encrypts(mode: str) -> bool:
    """Return whether the migration stream is encrypted in this mode."""
    return mode not in _PLAIN


def is_ours(name: str) -> bool:
    """Return whether a mode or a contestant is one of mtunnel."""
    return name.startswith(OURS)
