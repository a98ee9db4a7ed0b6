"""Kernel traces of this process in an emulated machine (tracefs; Documentation/trace)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TRACING = Path("/sys/kernel/tracing")
_NAMES = (
    *("read", "readv", "recvfrom", "recvmsg", "write", "writev", "sendto", "sendmsg", "splice", "tee"),
    *("epoll_wait", "epoll_pwait", "epoll_ctl", "setsockopt", "getsockopt", "futex", "fcntl", "ioctl"),
)
CALLS = tuple(f"syscalls/sys_enter_{name}" for name in _NAMES)
RETURNS = tuple(f"syscalls/sys_exit_{name}" for name in _NAMES)
"""Enter and exit events of the system calls of a data path."""

BUFFER = 32 * 1024
"""Trace buffer in KiB for each processor; older events are lost."""


@contextmanager
def tracing(*events: str) -> Iterator[list[str]]:
    """Trace events such as ``sched/sched_switch``; after the block the list has a line for each.

    Not raw_syscalls: an emulated machine with two processors hangs with it.
    """
    if not (TRACING / "trace").exists():
        assert ctypes.CDLL(None).mount(b"tracefs", os.fsencode(TRACING), b"tracefs", 0, None) == 0
    switches = [TRACING / "events" / event / "enable" for event in events]
    (TRACING / "buffer_size_kb").write_text(str(BUFFER))
    (TRACING / "set_event_pid").write_text(str(os.getpid()))
    (TRACING / "trace").write_text("")
    found: list[str] = []
    for switch in switches:
        switch.write_text("1")
    try:
        yield found
    finally:
        for switch in switches:
            switch.write_text("0")
    lines = (TRACING / "trace").read_text().splitlines()
    assert not any("LOST" in line for line in lines), "trace buffer overflow"
    found += [line for line in lines if not line.startswith("#")]
