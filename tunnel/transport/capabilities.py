"""Which capabilities this process has: capabilities(7)."""

from __future__ import annotations

from pathlib import Path

# linux/capability.h
NET_BIND_SERVICE = 10
NET_ADMIN = 12

_PROCESS_STATUS = Path("/proc/self/status")


def has(capability: int) -> bool:
    """Whether ``capability`` is effective. True where that cannot be read: the system call will tell."""
    try:
        lines = _PROCESS_STATUS.read_text().splitlines()
    except OSError:
        return True
    masks = [int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")]
    return not masks or bool(masks[0] >> capability & 1)
