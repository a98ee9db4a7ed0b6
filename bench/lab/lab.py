"""The lab: two hosts side by side, from setup to teardown."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Self

from tunnel.bench.lab import layout, pki, requirements, wires
from tunnel.bench.lab.configs import MIGRATION_PORTS, LabConfig, LabIngress, LabPeer
from tunnel.bench.lab.daemons import Daemon
from tunnel.bench.lab.disks import Disk
from tunnel.bench.lab.guests import LabGuest
from tunnel.bench.lab.host import LabHost
from tunnel.bench.lab.host_plan import plan
from tunnel.bench.lab.waiting import LabError
from tunnel.certs.authority import Authority
from tunnel.errors import UsageError
from tunnel.proof.pattern_guest import Workload
from tunnel.units import MIB

_UNPRIVILEGED = Path("/proc/sys/vm/unprivileged_userfaultfd")

LOCK = "lock"
STATE = "lab.json"
_OURS = {LOCK, STATE, "A", "B", "pki", "shared", "keeper.log"}
_HIDDEN_BY_HOSTS = ("/run", "/var/run", "/etc", "/proc", "/sys", "/var/lib/libvirt", "/var/log/libvirt")


class Lab:
    """Two hosts, ``a`` and ``b``, for as long as the context or this process lasts.

    Only the main thread may create it: its hosts end with the thread that started them.
    """

    def __init__(self, directory: Path, *, congestion: str | None = None) -> None:
        """``directory`` holds all of the lab's files: an absolute, short path, which is created and removed.

        Every TCP socket in the hosts uses ``congestion`` as congestion control; None: the machine's default.
        """
        self.directory = directory
        self.guests: dict[str, LabGuest] = {}
        self._congestion = congestion
        self._lock: IO[str] | None = None
        self._hosts: tuple[LabHost, LabHost] | None = None

    # Setup and teardown.

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self) -> None:
        """Bring both hosts up, with libvirtd running and only port 16515 open.

        Raises UsageError when this machine lacks a requirement, when the directory is unsuitable, or when it
        already has a lab; LabError when a host does not start.
        """
        requirements.check()
        self._lock = claim(self.directory)
        with ExitStack() as undo:
            undo.callback(self.down)
            self._hosts = self._start()
            self._write_state()
            undo.pop_all()

    def down(self) -> None:
        """Stop everything in both hosts and remove the directory. Safe to call twice."""
        for host in self._hosts or ():
            host.namespaces.close()
        for host in self._hosts or ():
            host.forget()
        self._hosts = None
        self.guests.clear()
        if self._lock is not None:
            shutil.rmtree(self.directory)
            self._lock.close()
            self._lock = None

    def _start(self) -> tuple[LabHost, LabHost]:
        plans = plan(self.directory)
        shared = self.directory / "shared"
        shared.mkdir(mode=0o711)
        (shared / "memory").mkdir()
        (shared / "memory").chmod(0o1777)  # for QEMU, whichever user it runs as
        authority = Authority.create(self.directory / "pki")
        for one in plans:
            layout.lay_out(one, plans)
            pki.lay_out(authority, one)
        a, b = plans
        # Set before they are ready, so that down() finds them if the following steps fail.
        first = LabHost(a, b, self._congestion)
        self._hosts = (first, first)
        self._hosts = hosts = (first, LabHost(b, a, self._congestion))
        for host in hosts:
            host.namespaces.wait_ready()
        wires.connect((hosts[0].namespaces.pid, hosts[1].namespaces.pid))
        for host in hosts:
            host.boot()
        return hosts

    def _write_state(self) -> None:
        state = {
            "owner": os.getpid(),
            "hosts": {host.plan.letter: host.namespaces.pid for host in self.hosts},
        }
        (self.directory / STATE).write_text(json.dumps(state))

    # Its hosts.

    @property
    def hosts(self) -> tuple[LabHost, LabHost]:
        """Both hosts. Raises LabError when the lab is not up."""
        if self._hosts is None:
            raise LabError(f"the lab in {self.directory} is not up")
        return self._hosts

    @property
    def a(self) -> LabHost:
        """Host A, hosta.lab."""
        return self.hosts[0]

    @property
    def b(self) -> LabHost:
        """Host B, hostb.lab."""
        return self.hosts[1]

    @property
    def shared(self) -> Path:
        """A directory that both hosts see, under this path."""
        return self.directory / "shared"

    # What runs in them.

    def start_guest(
        self,
        name: str = "web1",
        *,
        host: LabHost | None = None,
        memory: int = 64 * MIB,
        workload: Workload | None = None,
        disks: Sequence[Disk] = (),
        persistent: bool = True,
        touched: bool = False,
    ) -> LabGuest:
        """Start a guest on ``host`` (default: A) and wait until it has filled its memory.

        ``memory`` in bytes, in whole MiB. Without ``workload`` it dirties 1 MiB per second. ``touched``: its
        QEMUs touch their memory when they start, so that page faults of the machine are not measured.
        """
        if name in self.guests:
            raise LabError(f"guest {name} already exists in the lab")
        guest = LabGuest(
            name,
            self.shared,
            memory=memory,
            workload=workload,
            disks=disks,
            persistent=persistent,
            touched=touched,
        )
        self.guests[name] = guest
        guest.start(host or self.a)
        return guest

    def end_guest(self, name: str) -> None:
        """Destroy a guest and free its name."""
        self.guests[name].remove(self.hosts)
        del self.guests[name]

    def states(self, guest: str) -> tuple[str, str]:
        """Return the state of a guest on A and B, such as ``("absent", "running")``."""
        return self.a.state(guest), self.b.state(guest)

    def runner(self, guest: str) -> LabHost:
        """Return the one host that runs a guest. Raises LabError when none does, or both."""
        running = [host for host in self.hosts if host.state(guest) == "running"]
        if len(running) != 1:
            raise LabError(
                f"{guest} must run on exactly one host; on hosta, hostb it is {', '.join(self.states(guest))}"
            )
        return running[0]

    def start_daemons(
        self,
        ingresses: Sequence[LabIngress],
        *,
        egress: Sequence[str] = (MIGRATION_PORTS,),
        transport: dict[str, object] | None = None,
    ) -> tuple[Daemon, Daemon]:
        """Start mtunnel on both hosts and wait until they are linked.

        Each ingress is created on the host opposite to its peer; both hosts allow the same ``egress``, where
        ``{host}`` is the name of the host. Without an ingress no host dials: they serve, but are not linked.
        """
        for ingress in ingresses:
            if ingress.peer not in {host.name for host in self.hosts}:
                raise LabError(f"{ingress.peer} is not a host of the lab: the peer must be hosta or hostb")
        for host in self.hosts:
            mine = [ingress for ingress in ingresses if ingress.peer == host.peer.name]
            allowed = [rule.format(host=host.name) for rule in egress]
            config = LabConfig(host.plan, [LabPeer.of(host.peer, allowed)], mine, transport=transport or {})
            host.start_daemon(config, wait=False)  # both at the same time
        first, second = self.a.daemons[-1], self.b.daemons[-1]
        for daemon in (first, second):
            daemon.wait_serving()
        if ingresses:  # a host dials only where an ingress leads
            first.wait_linked(self.b.name)
            second.wait_linked(self.a.name)
        return first, second

    def shape(self, bits_per_s: int | None) -> None:
        """Limit the first link to this rate each way until ``reset``; None removes the limit."""
        for host in self.hosts:
            host.shape(bits_per_s)

    def allow_postcopy(self) -> None:
        """Allow guests that are started until the next ``reset`` to migrate in post-copy mode.

        An unprivileged QEMU needs ``vm.unprivileged_userfaultfd = 1``, which applies to the whole machine.
        Where that is not set, QEMU runs as root.
        """
        if _UNPRIVILEGED.exists() and _UNPRIVILEGED.read_text().strip() != "1":
            for host in self.hosts:
                host.libvirtd.configure(qemu={"user": "root", "group": "root"})

    def reset(self) -> None:
        """Stop every guest, daemon and program; restore the firewall, names and libvirtd of both hosts."""
        for host in self.hosts:
            host.reset()
        for guest in self.guests.values():
            guest.remove(self.hosts)
        self.guests.clear()
        for host in self.hosts:
            for name in host.guests():
                host.virsh("destroy", name, check=False)
                host.virsh("undefine", name, check=False)


def claim(directory: Path) -> IO[str]:
    """Lock ``directory`` and empty it; the lock lasts until the returned file is closed.

    Raises UsageError when a lab is up in it, when it holds other files, or when its path is unsuitable.
    """
    _check_place(directory)
    directory.mkdir(mode=0o711, exist_ok=True)
    directory.chmod(0o711)  # QEMU, which is not root, must be able to traverse it
    strange = {entry.name for entry in directory.iterdir()} - _OURS
    if strange or directory.stat().st_uid != os.geteuid():
        raise UsageError(
            f"{directory} is not a lab directory: {', '.join(sorted(strange)) or 'it has another owner'}"
        )
    lock = lock_of(directory)
    if lock is None:
        raise UsageError(
            f"a lab is already up in {directory}: stop it with './run lab down', or choose another directory"
        )
    empty(directory)
    return lock


def lock_of(directory: Path) -> IO[str] | None:
    """Take the lock of a lab's directory; return None if its lab is up."""
    lock = (directory / LOCK).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def empty(directory: Path) -> None:
    """Remove the files of a killed lab from its directory."""
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


def _check_place(directory: Path) -> None:
    if not directory.is_absolute() or directory.is_symlink():
        raise UsageError(f"the lab directory must be an absolute path and not a symlink: {directory}")
    if any(directory.is_relative_to(hidden) for hidden in _HIDDEN_BY_HOSTS):
        raise UsageError(
            f"{directory} would not be visible in the hosts, which mount their own directories there"
        )
    for parent in directory.parents:
        if not parent.is_dir():
            raise UsageError(f"{parent} is not a directory")
        if not parent.stat().st_mode & 0o001:
            raise UsageError(f"{parent} is not accessible to other users; QEMU needs it: chmod o+x {parent}")
