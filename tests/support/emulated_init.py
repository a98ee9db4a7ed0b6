"""The init of an emulated machine: mounts file systems, runs pytest, prints the exit code of each run.

All runs share one process: imports take longer here than many tests.
"""

import ctypes
import errno
import fcntl
import json
import os
import platform
import socket
import struct
import sys
import traceback
from pathlib import Path
from typing import Any

FINIT_MODULE = 313  # its number on x86-64
POWER_OFF = 0x4321FEDC  # reboot(2)
SIOCSIFFLAGS, SIOCSIFMTU = 0x8914, 0x8922  # netdevice(7)
IFF_UP = 1

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(kind: str, target: str) -> None:
    Path(target).mkdir(exist_ok=True)
    check(libc.mount(kind.encode(), target.encode(), kind.encode(), 0, None), f"mount {target}")


def load(module: str) -> None:
    descriptor = os.open(module, os.O_RDONLY)
    if libc.syscall(FINIT_MODULE, descriptor, b"", 0) < 0 and ctypes.get_errno() != errno.EEXIST:
        # A module for hardware that is not emulated.
        print(f"emulated: {module} not loaded: {os.strerror(ctypes.get_errno())}", flush=True)
    os.close(descriptor)


def settle(plan: dict[str, Any]) -> None:
    for kind, target in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")):
        mount(kind, target)
    Path("/tmp").mkdir(exist_ok=True)  # in memory; the checkout may be below it
    for descriptor in (0, 1, 2):
        os.dup2(os.open("/dev/ttyS0", os.O_RDWR), descriptor)
    os.environ.update(plan["environment"])
    os.chdir(plan["root"])


def prepare(run: dict[str, Any]) -> None:
    for module in run["modules"]:
        load(module)
    with socket.socket() as sock:
        fcntl.ioctl(sock, SIOCSIFMTU, struct.pack("16si12x", b"lo", run["mtu"]))
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def main() -> None:
    try:
        plan = json.loads(Path("/plan.json").read_text())
        settle(plan)
        print(f"emulated: Linux {platform.release()}", flush=True)
        import pytest  # needs /proc and /tmp

        for name, run in plan["runs"].items():
            prepare(run)
            print(f"emulated: {name} begins", flush=True)
            print(f"emulated: {name} exit {int(pytest.main(run['pytest']))}", flush=True)
    except BaseException:  # noqa: BLE001  the machine powers off in any case
        traceback.print_exc()
    sys.stdout.flush()
    libc.reboot(POWER_OFF)


main()
