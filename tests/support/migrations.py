"""``virsh migrate`` between the hosts of the lab as set up in README, and verification of the result."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from tunnel.bench.lab.configs import MIGRATION_PORTS, LabIngress
from tunnel.bench.lab.guests import LabGuest
from tunnel.bench.lab.host import LabHost
from tunnel.bench.lab.host_plan import PORT
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.programs import Done, Started
from tunnel.bench.lab.waiting import LabError, until
from tunnel.daemon.control_socket import IngressStatus
from tunnel.proof.pattern_guest import PAGE, Workload
from tunnel.units import MIB
from tunnel.virt.libvirt_move import CRASHING
from tunnel.virt.qmp import Monitor

ALIAS = {"hosta": "127.0.1.3", "hostb": "127.0.1.2"}
LIBVIRT = "unix:/run/libvirt/libvirt-sock"
LIBVIRT_AT = {name: f"qemu+unix:///system?socket=/run/mtunnel/{name}/libvirt-sock" for name in ALIAS}
"""The libvirt URI of a host from the other one."""

RESTLESS = Workload(working_set=16 * MIB, dirty_rate=16 * MIB)
"""A guest that needs more than one pass at a few MiB/s."""

SMALL = 32 * MIB
FRANTIC = Workload(working_set=16 * MIB, dirty_rate=64 * MIB)
"""With SMALL memory, a guest of which half is dirty again after each pass at 16 MiB/s."""

PATIENCE = 120.0


def redirect(peer: str, ports: str = "49152-49215") -> LabIngress:
    """Return the ingress for a peer's migration ports."""
    return LabIngress(peer, f"redirect:{ALIAS[peer]}:{ports}")


def rpc(peer: str) -> LabIngress:
    """Return the ingress for a peer's libvirt, not for QEMU's user, which must not become root there."""
    return LabIngress(peer, f"unix:/run/mtunnel/{peer}/libvirt-sock", LIBVIRT, users=["root"])


def both_ways() -> list[LabIngress]:
    """Return the ingresses of README: memory and libvirt RPC, from each host to the other."""
    return [make(peer) for peer in ALIAS for make in (redirect, rpc)]


def link(lab: Lab, ingresses: Sequence[LabIngress] = (), egress: Sequence[str] = (MIGRATION_PORTS,)) -> None:
    """Start both daemons with these ingresses, default: as in README, with libvirt RPC allowed."""
    lab.start_daemons(ingresses or both_ways(), egress=(*egress, LIBVIRT))


def migration(*options: str, guest: str = "web1", to: str = "hostb") -> list[str]:
    """Return the arguments of virsh to migrate ``guest`` through the redirected ports of host ``to``."""
    through = ["--migrateuri", f"tcp://{ALIAS[to]}"]
    if any(option.startswith("--migrateuri") for option in options):
        through = []
    return ["migrate", "--live", guest, LIBVIRT_AT[to], *through, *options]


def migrate(lab: Lab, *options: str, check: bool = True) -> Done:
    """Migrate web1 from A to B. Raises LabError, with the output of virsh, when that fails."""
    return lab.a.virsh(*migration(*options), timeout=PATIENCE, check=check)


def take_up(lab: Lab, *options: str) -> None:
    """Recover the failed post-copy of web1; it may still be running when this returns.

    libvirt 9 may report the old failure of the destination, if it checks before QEMU there has reported the
    new start. Then virsh prints that failure again, but the migration continues. libvirt 11.2 and 11.3 would
    crash: with these it is recovered by hand.
    """
    if crashes_when_resuming(lab.b):
        lab.b.libvirtd.stop()
        take_up_by_hand(lab)
        return
    done = migrate(lab, "--postcopy", "--postcopy-resume", *options, check=False)
    assert done.returncode == 0 or "'migration in' failed in post-copy phase" in done.stderr, done.stderr


def take_up_by_hand(lab: Lab, port: int = 49160) -> None:
    """Recover the failed post-copy of web1 without the libvirt of B, which must not be running.

    It uses ``port`` of the ingress for migrations. QEMU's monitor serves one client at a time: that on B is
    free as long as no libvirtd has it open.
    """
    assert not lab.b.libvirtd.running
    (monitor,) = lab.b.plan.outside("/var/lib/libvirt/qemu").glob("domain-*-web1/monitor.sock")
    asyncio.run(_recover(monitor, f"tcp:127.0.0.1:{port}"))
    lab.b.libvirtd.start()
    resume = {"execute": "migrate", "arguments": {"uri": f"tcp:{ALIAS['hostb']}:{port}", "resume": True}}
    unlimited = {"execute": "migrate-set-parameters", "arguments": {"max-postcopy-bandwidth": 0}}
    for command in (unlimited, resume):
        assert '"return"' in lab.a.virsh("qemu-monitor-command", "web1", json.dumps(command)).stdout


async def _recover(path: Path, uri: str) -> None:
    async with await Monitor.connect(path, "web1 on hostb") as monitor:
        await monitor.execute("migrate-recover", {"uri": uri})


def crashes_when_resuming(host: LabHost) -> bool:
    """Return whether the host's libvirt is a version that crashes when it recovers post-copy."""
    version = host.run(["libvirtd", "--version"]).stdout.split()[-1]  # libvirtd (libvirt) 11.3.0
    return CRASHING[0] <= tuple(map(int, version.split("."))) < CRASHING[1]


def begin(lab: Lab, *options: str, guest: str = "web1", source: LabHost | None = None) -> Started:
    """Start to migrate ``guest`` from A to B, or from ``source`` to the other host."""
    host = source or lab.a
    return host.start(["virsh", *migration(*options, guest=guest, to=host.peer.name)])


def finished(program: Started) -> str:
    """Return the output of a started program, which must succeed."""
    assert program.wait(PATIENCE) == 0, program.output()
    return program.output()


def wait_moving(host: LabHost, guest: str = "web1") -> None:
    """Wait until some of a guest's memory was sent."""

    def moves() -> bool:
        job = host.job(guest)
        return job.get("Operation", "").startswith("Outgoing") and "Memory processed" in job

    until(moves, f"for {guest} to be migrating")


def arrived(lab: Lab, guest: LabGuest, *, left: str = "shut off", carried: float = 1.0) -> None:
    """Verify a guest of A that is now only on B, that the tunnel carried it, and that nothing bypassed it.

    ``left``: its state on A. The tunnel must have carried ``carried`` times the guest's filled memory.
    """
    assert lab.states(guest.name) == (left, "running")
    filled = guest.verify(lab.b).pages * PAGE
    no_lane_was_lost(lab)
    assert sent(lab.a) >= carried * filled
    nobody_else_was_let_in(lab)


def stayed(lab: Lab, guest: LabGuest) -> None:
    """Verify a guest of A that still runs there, and is not on B."""
    try:
        until(
            lambda: lab.states(guest.name) == ("running", "absent"), f"for {guest.name} to be only on hosta"
        )
    except LabError as error:
        raise LabError(f"{error}; it is {lab.states(guest.name)}\n{qemu_logs(lab, guest)}") from error
    guest.verify(lab.a)
    nobody_else_was_let_in(lab)


def qemu_logs(lab: Lab, guest: LabGuest) -> str:
    """Return what the guest's QEMUs printed, on both hosts."""
    logs = [host.plan.outside(f"/var/log/libvirt/qemu/{guest.name}.log") for host in lab.hosts]
    return "\n".join(f"{log}:\n{log.read_text(errors='replace')}" for log in logs if log.exists())


def no_lane_was_lost(lab: Lab) -> None:
    """Check that no lane between the daemons was lost; otherwise fail with their logs."""
    for host in lab.hosts:
        daemon = host.daemons[-1]
        assert daemon.link(host.peer.name)["resumes"] == 0, f"{host.name}:\n{daemon.log}"


def nobody_else_was_let_in(lab: Lab) -> None:
    """Check that both firewalls have only the one port open, and refused no connection."""
    for host in lab.hosts:
        assert host.firewall.opened() == [PORT]
        assert host.firewall.refused() == {}


def sent(host: LabHost) -> int:
    """Return the bytes that the daemon of a host has sent to its peer over the current lanes."""
    lanes = host.daemons[-1].link(host.peer.name)["lanes"]
    return sum(lane["bytes_sent"] for lane in lanes)


def ingress(host: LabHost, listen: str) -> IngressStatus:
    """Return the ingress in ``status`` whose address starts with ``listen``."""
    (found,) = (each for each in host.daemons[-1].status()["ingresses"] if each["listen"].startswith(listen))
    return found
