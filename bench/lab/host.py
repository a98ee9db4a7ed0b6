"""A host of the lab: its namespaces, and the programs that run in them."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunnel.bench.lab import layout, programs, wires
from tunnel.bench.lab.configs import LabConfig
from tunnel.bench.lab.daemons import Daemon
from tunnel.bench.lab.firewall import Firewall
from tunnel.bench.lab.host_plan import PORT, LabHostPlan
from tunnel.bench.lab.libvirtd import SOCKET, Libvirtd
from tunnel.bench.lab.namespaces import Namespaces
from tunnel.bench.lab.programs import Done, Started
from tunnel.bench.lab.waiting import PATIENCE, LabError

ABSENT = "absent"
# virsh domstate looks up a guest by name, then queries its state; the guest may vanish before either.
_NO_SUCH_GUEST = ("failed to get domain", "Domain not found")
_QEMU_PIDS = "/run/libvirt/qemu"


class LabHost:
    """One of the two hosts. Paths in its arguments are the host's own, unless they are ``Path``."""

    def __init__(self, plan: LabHostPlan, peer: LabHostPlan, congestion: str | None = None) -> None:
        """Start its namespaces, without waiting; its directories must exist."""
        self.plan = plan
        self.peer = peer
        self._congestion = congestion
        self._shaped = False
        self.started: list[Started] = []
        self.daemons: list[Daemon] = []
        self._logs = plan.directory / "programs"
        self._logs.mkdir(exist_ok=True)
        self.namespaces = Namespaces(plan)
        self.firewall = Firewall(self._nft)
        self.libvirtd = Libvirtd(plan, lambda argv: self.run(argv, check=False), self.find)

    @property
    def name(self) -> str:
        """Its short name, which is also its mtunnel host name."""
        return self.plan.name

    # Programs.

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = PATIENCE,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        input: str | None = None,  # noqa: A002  as in subprocess.run
    ) -> Done:
        """Run a program in the host, as root; return its output. Raises LabError when it fails."""
        return programs.run(self.namespaces, argv, timeout=timeout, check=check, env=env, input=input)

    def start(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Started:
        """Start a program in the host, as root. ``Lab.reset`` kills it if it still runs."""
        program = Started(self.namespaces, argv, self._logs, env)
        self.started.append(program)
        return program

    def _start_service(self, argv: Sequence[str]) -> Started:
        return Started(self.namespaces, argv, self._logs)

    def _nft(self, options: Sequence[str], script: str) -> str:
        return self.run(["nft", *options], input=script).stdout

    def find(self, pid_file: str) -> int | None:
        """Return the outside process id of the process in a PID file of the host; None if it has exited."""
        try:
            inside = int(self.plan.outside(pid_file).read_text())
        except (OSError, ValueError):
            return None
        return self.namespaces.outside_pid(inside)

    def shape(self, bits_per_s: int | None) -> None:
        """Limit the rate at which its first interface sends; None removes the limit."""
        self.run(wires.shaping(bits_per_s))
        self._shaped = bits_per_s is not None

    # libvirt.

    def virsh(self, *arguments: str, timeout: float = 60.0, check: bool = True) -> Done:
        """Run virsh against the host's own libvirtd."""
        return self.run(["virsh", *arguments], timeout=timeout, check=check)

    @property
    def libvirt_socket(self) -> Path:
        """The path of its libvirtd's socket outside of the host."""
        return self.plan.outside(SOCKET)

    def state(self, guest: str) -> str:
        """Return the state of a guest in libvirtd: ``running``, ``paused``, ``shut off``, … ``absent``."""
        done = self.virsh("domstate", guest, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
        if any(text in done.stderr for text in _NO_SUCH_GUEST):
            return ABSENT
        raise LabError(f"cannot get the state of {guest} on {self.name}: {done.stderr.strip()}")

    def job(self, guest: str, *, completed: bool = False) -> dict[str, str]:
        """Return the lines of ``virsh domjobinfo``, of the running or the last completed job."""
        options = ["--completed"] if completed else []
        text = self.virsh("domjobinfo", guest, *options).stdout
        return {
            key.strip(): value
            for key, value in re.findall(r"^([^:\n]+):[ \t]+(.*\S)[ \t]*$", text, re.MULTILINE)
        }

    def guests(self) -> list[str]:
        """Return the names of all guests that are defined in its libvirtd."""
        return self.virsh("list", "--all", "--name").stdout.split()

    def has_qemu(self, guest: str) -> bool:
        """Return whether libvirt has started a QEMU for this guest: cheap enough for polling."""
        return self.plan.outside(f"{_QEMU_PIDS}/{guest}.pid").exists()

    def qemu_pid(self, guest: str) -> int:
        """Return the outside process id of a guest's QEMU. Raises LabError when there is none."""
        pid = self.find(f"{_QEMU_PIDS}/{guest}.pid")
        if pid is None:
            raise LabError(f"no QEMU for {guest} is running on {self.name}")
        return pid

    def kill_qemu(self, guest: str) -> None:
        """Kill a guest's QEMU with SIGKILL."""
        os.kill(self.qemu_pid(guest), signal.SIGKILL)

    # mtunnel.

    def start_daemon(self, config: LabConfig | str, *, wait: bool = True) -> Daemon:
        """Start mtunnel with this configuration and wait until it serves. Raises LabError if it does not.

        Without ``wait`` it returns immediately.
        """
        text = config if isinstance(config, str) else config.text()
        daemon = Daemon(self.plan, text, self._start_service)
        self.daemons.append(daemon)
        if wait:
            daemon.wait_serving()
        return daemon

    # Restoring it.

    def boot(self) -> None:
        """Configure its addresses and its firewall, and start its libvirtd."""
        enter = tuple(self.namespaces.enter)
        wires.batch(wires.addresses(self.plan), enter)
        if self._congestion:
            wires.batch(wires.routes(self.plan, self._congestion), enter)
        self.firewall.close(but=(PORT,))
        self.libvirtd.start()

    def reset(self) -> None:
        """Stop all programs in it, and restore names, firewall and libvirtd. Guests are not touched."""
        for daemon in self.daemons:
            daemon.stop()
        for program in self.started:
            program.kill()
        self.daemons.clear()
        self.started.clear()
        layout.write_hosts(self.plan, (self.plan, self.peer))
        self._nft(["flush", "ruleset"], "")  # a killed daemon leaves its table
        self.firewall.close(but=(PORT,))
        if self._shaped:
            self.shape(None)
        self.libvirtd.restore()

    def forget(self) -> None:
        """Reap the processes that ended with the namespaces."""
        for daemon in self.daemons:
            daemon.kill()
        for program in self.started:
            program.kill()
