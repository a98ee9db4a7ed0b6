"""What the kernel of an emulated machine writes down about this process (tracefs; Documentation/trace)."""

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
"""Events of the system calls that a data path makes: when they begin, and when they are over."""

BUFFER = 32 * 1024
"""KiB of events that are kept for each processor; older ones are lost."""


@contextmanager
def tracing(*events: str) -> Iterator[list[str]]:
    """Trace events such as ``sched/sched_switch``; behind the block the list has a line for each.

    Not raw_syscalls: an emulated machine with two processors stands still then.
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
    assert not any("LOST" in line for line in lines), "more events than fit"
    found += [line for line in lines if not line.startswith("#")]
