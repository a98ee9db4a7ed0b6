"""The namespaces of a host: unnamed, and removed with the process that created them, however that ends.

The init process of a host's PID namespace holds all of them. It is a child of ``unshare``, which is a child
of this process; each is killed with its parent (``PDEATHSIG``), and when the init process of a PID namespace
ends, the kernel kills the rest of it: libvirtd, QEMU, daemons. The network and the mounts end with the last
of them. So a lab whose owner was killed with SIGKILL leaves only a directory.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

from tunnel.bench.lab.host_plan import LabHostPlan
from tunnel.bench.lab.layout import MACHINE_ETC, NO_KVM
from tunnel.bench.lab.tools import path_of
from tunnel.bench.lab.waiting import PATIENCE, LabError
from tunnel.virt.process import DIES_WITH_PARENT, guarded

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_READY = b"ready\n"


class Namespaces:
    """Network, mount, UTS and PID namespaces of one host. They end with the thread that creates them."""

    def __init__(self, host: LabHostPlan) -> None:
        """Start to create them; ``wait_ready`` must be called next."""
        self._name = host.name
        self._log = host.directory / "init.log"
        self.pid = 0
        kinds = ["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                guarded([path_of("unshare"), *kinds, "/bin/sh", "-c", script(host)]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={"PATH": PATH},
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Wait until the host has its directories and its name. Raises LabError when that fails."""
        pipe = self._process.stdout
        if pipe is None or not select.select([pipe], [], [], PATIENCE)[0] or pipe.readline() != _READY:
            raise LabError(f"{self._name} failed to start: {_text(self._log) or 'no output'}")
        (first,) = psutil.Process(self._process.pid).children()
        self.pid = first.pid

    @property
    def enter(self) -> list[str]:
        """The command prefix that runs a program inside. Killing it kills that program too."""
        kinds = ["--mount", "--uts", "--net", "--pid"]
        return [path_of("nsenter"), f"--target={self.pid}", *kinds, "--", *DIES_WITH_PARENT]

    def members(self) -> list[psutil.Process]:
        """Return every process in the PID namespace, its init process included."""
        with suppress(psutil.NoSuchProcess):
            mine = _pid_namespace(psutil.Process(self.pid))
            return [one for one in psutil.process_iter() if mine and _pid_namespace(one) == mine]
        return []

    def outside_pid(self, inside: int) -> int | None:
        """Return the outside process id of the process ``inside``; None if it has exited."""
        for process in self.members():
            with suppress(OSError, psutil.NoSuchProcess):
                status = Path(f"/proc/{process.pid}/status").read_text()
                (numbers,) = (line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
                if int(numbers[-1]) == inside and process.status() != psutil.STATUS_ZOMBIE:
                    return int(process.pid)
        return None

    def close(self) -> None:
        """Kill everything inside. Safe to call twice."""
        members = self.members() if self.pid else []
        # Only the init process: unshare then reaps it, before the machine's init, which may be slow.
        if self.pid and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        psutil.wait_procs(members, timeout=PATIENCE)


def script(host: LabHostPlan) -> str:
    """Return the script of the init process of ``host``: mounts, hostname, then wait and reap orphans."""
    own = dict(host.own)
    run, etc = shlex.quote(str(own.pop("/run"))), shlex.quote(str(own.pop("/etc")))
    lines = [
        "set -e",
        # libvirt would find the machine's cgroups here, which both hosts share.
        "mount -t sysfs sysfs /sys",
        # Guests are emulated. If /dev/kvm exists but does not work, libvirt probes QEMU at each call.
        f"! [ -e /dev/kvm ] || mount --bind {shlex.quote(str(host.directory / NO_KVM))} /dev/kvm",
        f"mount --bind {run} /run",
        f"mount --bind /etc {MACHINE_ETC}",
        f"mount --bind {etc} /etc",
        *(f"mount --bind {shlex.quote(str(place))} {inside}" for inside, place in own.items()),
        f"hostname {shlex.quote(host.fqdn)}",
        "ip link set lo up",
        "echo ready",
        "exec >/dev/null",
        "while :; do sleep 86400 & wait $!; done",
    ]
    return "\n".join(lines)


def _pid_namespace(process: psutil.Process) -> str:
    with suppress(OSError):
        return str(Path(f"/proc/{process.pid}/ns/pid").readlink())
    return ""


def _text(path: Path) -> str:
    return path.read_text(errors="replace").strip()
