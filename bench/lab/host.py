"""A host of the lab: its namespaces, and everything that runs in them."""

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
# virsh domstate looks a guest up by its name, then asks for its state; it may vanish before either.
_NO_SUCH_GUEST = ("failed to get domain", "Domain not found")
_QEMU_PIDS = "/run/libvirt/qemu"


class LabHost:
    """One of the two hosts. Paths in its arguments are the host's own, unless they are ``Path``."""

    def __init__(self, plan: LabHostPlan, peer: LabHostPlan, congestion: str | None = None) -> None:
        """Begin to start it; its directories are laid out already."""
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
        """Its short name, which is also mtunnel's name for it."""
        return self.plan.name

    # Programs.

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = PATIENCE,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        input: str | None = None,  # noqa: A002  subprocess.run's own word for it
    ) -> Done:
        """Run a program in the host, as root, and return what it printed. Raises LabError when it fails."""
        return programs.run(self.namespaces, argv, timeout=timeout, check=check, env=env, input=input)

    def start(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Started:
        """Start a program in the host, as root. ``Lab.reset`` ends it, if nobody did before."""
        program = Started(self.namespaces, argv, self._logs, env)
        self.started.append(program)
        return program

    def _start_service(self, argv: Sequence[str]) -> Started:
        return Started(self.namespaces, argv, self._logs)

    def _nft(self, options: Sequence[str], script: str) -> str:
        return self.run(["nft", *options], input=script).stdout

    def find(self, pid_file: str) -> int | None:
        """The process that a file of the host names, as seen from outside; None if it is no more."""
        try:
            inside = int(self.plan.outside(pid_file).read_text())
        except (OSError, ValueError):
            return None
        return self.namespaces.outside_pid(inside)

    def shape(self, bits_per_s: int | None) -> None:
        """Let its first interface send no more than this, or, with None, as much as it can."""
        self.run(wires.shaping(bits_per_s))
        self._shaped = bits_per_s is not None

    # libvirt.

    def virsh(self, *arguments: str, timeout: float = 60.0, check: bool = True) -> Done:
        """Run virsh against the host's own libvirtd."""
        return self.run(["virsh", *arguments], timeout=timeout, check=check)

    @property
    def libvirt_socket(self) -> Path:
        """The socket of its libvirtd, as reached from outside of the host."""
        return self.plan.outside(SOCKET)

    def state(self, guest: str) -> str:
        """What its libvirtd says of a guest: ``running``, ``paused``, ``shut off``, … or ``absent``."""
        done = self.virsh("domstate", guest, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
        if any(words in done.stderr for words in _NO_SUCH_GUEST):
            return ABSENT
        raise LabError(f"{self.name} does not say how {guest} is: {done.stderr.strip()}")

    def job(self, guest: str, *, completed: bool = False) -> dict[str, str]:
        """The lines of ``virsh domjobinfo``, of the running job or of the last one that completed."""
        options = ["--completed"] if completed else []
        text = self.virsh("domjobinfo", guest, *options).stdout
        return {
            key.strip(): value
            for key, value in re.findall(r"^([^:\n]+):[ \t]+(.*\S)[ \t]*$", text, re.MULTILINE)
        }

    def guests(self) -> list[str]:
        """The names of all guests that its libvirtd knows."""
        return self.virsh("list", "--all", "--name").stdout.split()

    def has_qemu(self, guest: str) -> bool:
        """Whether libvirt says that it has started a QEMU for this guest: cheap to ask again and again."""
        return self.plan.outside(f"{_QEMU_PIDS}/{guest}.pid").exists()

    def qemu_pid(self, guest: str) -> int:
        """The process id of a guest's QEMU, as seen from outside. Raises LabError when it has none."""
        pid = self.find(f"{_QEMU_PIDS}/{guest}.pid")
        if pid is None:
            raise LabError(f"no QEMU of {guest} runs on {self.name}")
        return pid

    def kill_qemu(self, guest: str) -> None:
        """End a guest's QEMU with SIGKILL."""
        os.kill(self.qemu_pid(guest), signal.SIGKILL)

    # mtunnel.

    def start_daemon(self, config: LabConfig | str, *, wait: bool = True) -> Daemon:
        """Start mtunnel with this configuration, and wait until it serves. Raises LabError if it does not.

        Without ``wait`` it need not serve yet.
        """
        text = config if isinstance(config, str) else config.text()
        daemon = Daemon(self.plan, text, self._start_service)
        self.daemons.append(daemon)
        if wait:
            daemon.wait_serving()
        return daemon

    # As it was.

    def boot(self) -> None:
        """Give it its addresses, its firewall and its libvirtd."""
        enter = tuple(self.namespaces.enter)
        wires.batch(wires.addresses(self.plan), enter)
        if self._congestion:
            wires.batch(wires.routes(self.plan, self._congestion), enter)
        self.firewall.close(but=(PORT,))
        self.libvirtd.start()

    def reset(self) -> None:
        """End what was started in it, and restore names, firewall and libvirtd. Guests are left alone."""
        for daemon in self.daemons:
            daemon.stop()
        for program in self.started:
            program.kill()
        self.daemons.clear()
        self.started.clear()
        layout.write_hosts(self.plan, (self.plan, self.peer))
        self._nft(["flush", "ruleset"], "")  # a daemon that was killed leaves its table
        self.firewall.close(but=(PORT,))
        if self._shaped:
            self.shape(None)
        self.libvirtd.restore()

    def forget(self) -> None:
        """Collect what the end of the namespaces has killed."""
        for daemon in self.daemons:
            daemon.kill()
        for program in self.started:
            program.kill()
