"""The namespaces of a host: unnamed, and gone with the process that made them, however that ends.

The first process of a host's PID namespace holds all of them. It is a child of ``unshare``, which is a child
of ours; each dies with its parent (``PDEATHSIG``), and when the first process of a PID namespace dies, the
kernel kills the rest of it: libvirtd, QEMU, daemons. With the last of them go the network and the mounts. So
a lab whose owner was killed with SIGKILL leaves nothing but a directory.
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

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_READY = b"ready\n"

# The death signal is armed after the fork: who was orphaned before that must not start at all.
_ORPHAN_CHECK = '[ "$PPID" = "$0" ] && exec "$@"'


class Namespaces:
    """Network, mount, UTS and PID namespaces of one host. Make them in the main thread: they die with it."""

    def __init__(self, host: LabHostPlan) -> None:
        """Begin to make them; ``wait_ready`` must be called next."""
        self._name = host.name
        self._log = host.directory / "init.log"
        self.pid = 0
        kinds = ["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*_dying_with_us(), path_of("unshare"), *kinds, "/bin/sh", "-c", script(host)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={"PATH": PATH},
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Wait until the host has its directories and its name. Raises LabError when it does not get them."""
        pipe = self._process.stdout
        if pipe is None or not select.select([pipe], [], [], PATIENCE)[0] or pipe.readline() != _READY:
            raise LabError(f"{self._name} does not start: {_text(self._log) or 'and says nothing'}")
        (first,) = psutil.Process(self._process.pid).children()
        self.pid = first.pid

    @property
    def enter(self) -> list[str]:
        """The command that runs another one inside. Who kills it kills that one too."""
        kinds = ["--mount", "--uts", "--net", "--pid"]
        inside = [path_of("setpriv"), "--pdeathsig", "KILL", "--"]
        return [path_of("nsenter"), f"--target={self.pid}", *kinds, "--", *inside]

    def members(self) -> list[psutil.Process]:
        """Every process in the PID namespace, its first one included."""
        with suppress(psutil.NoSuchProcess):
            mine = _pid_namespace(psutil.Process(self.pid))
            return [one for one in psutil.process_iter() if mine and _pid_namespace(one) == mine]
        return []

    def outside_pid(self, inside: int) -> int | None:
        """What a process that is ``inside`` to the host is called outside; None if it is no more."""
        for process in self.members():
            with suppress(OSError, psutil.NoSuchProcess):
                status = Path(f"/proc/{process.pid}/status").read_text()
                (numbers,) = (line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
                if int(numbers[-1]) == inside and process.status() != psutil.STATUS_ZOMBIE:
                    return int(process.pid)
        return None

    def close(self) -> None:
        """End everything inside, at once. Safe to call twice."""
        members = self.members() if self.pid else []
        # Its first process alone: unshare then collects it, ahead of a machine's init that may take its time.
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
    """What the first process of ``host`` does: its mounts, its name, then wait and collect the orphans."""
    own = dict(host.own)
    run, etc = shlex.quote(str(own.pop("/run"))), shlex.quote(str(own.pop("/etc")))
    lines = [
        "set -e",
        # libvirt would find the machine's cgroups here, and two hosts share one tree of them.
        "mount -t sysfs sysfs /sys",
        # Guests are emulated. A KVM that is there and does not work makes libvirt probe QEMU at each call.
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


def _dying_with_us() -> list[str]:
    guard = [path_of("setpriv"), "--pdeathsig", "KILL", "--"]
    return [*guard, "/bin/sh", "-c", _ORPHAN_CHECK, str(os.getpid())]


def _pid_namespace(process: psutil.Process) -> str:
    with suppress(OSError):
        return str(Path(f"/proc/{process.pid}/ns/pid").readlink())
    return ""


def _text(path: Path) -> str:
    return path.read_text(errors="replace").strip()
