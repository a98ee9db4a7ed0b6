"""``mtunnel migrate`` migrates libvirt's guests with only port 16515 open, or reports why it cannot."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.support.lab import lab, module_lab
from tests.support.migrations import crashes_when_resuming, take_up_by_hand
from tunnel.bench.lab.configs import MIGRATION_PORTS, LabIngress
from tunnel.bench.lab.daemons import CONFIG
from tunnel.bench.lab.disks import Disk
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.programs import Started
from tunnel.bench.lab.waiting import until
from tunnel.proof.local_daemon import MTUNNEL
from tunnel.proof.pattern_guest import Workload
from tunnel.units import MIB

__all__ = ["lab", "module_lab"]

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

RPC = LabIngress("hostb", "unix:/run/mtunnel/hostb/libvirt-sock", "unix:/run/libvirt/libvirt-sock")
RAM = LabIngress("hostb", "tcp:127.0.1.2:49152")
DISKS = LabIngress("hostb", "tcp:127.0.1.2:49153")
RESTLESS = Workload(working_set=16 * MIB, dirty_rate=16 * MIB)
SLOW = ("--bandwidth", "4MiB/s")


def linked(lab: Lab, *ingresses: LabIngress, transport: dict[str, object] | None = None) -> None:
    egress = (MIGRATION_PORTS, "unix:/run/libvirt/libvirt-sock")
    lab.start_daemons(ingresses or (RPC, RAM, DISKS), egress=egress, transport=transport)


def command(*options: str) -> list[str]:
    return [*MTUNNEL, "migrate", "web1", "hostb", "--config", CONFIG, "--json", *options]


def migrate(lab: Lab, *options: str) -> tuple[int, list[dict[str, Any]], str]:
    """Run the command; return its exit code, events and stderr."""
    done = lab.a.run(command(*options), timeout=120, check=False)
    return done.returncode, events(done.stdout), done.stderr


def events(text: str) -> list[dict[str, Any]]:
    """Parse complete lines only: the last may be partial."""
    return [
        json.loads(line)
        for line in text.splitlines(keepends=True)
        if line.startswith("{") and line[-1] == "\n"
    ]


def events_of(program: Started) -> list[dict[str, Any]]:
    """Return the events so far of a command that must still be running."""
    assert program.running, program.output()
    return events(program.output())


def wait_sent(program: Started, amount: int) -> None:
    def far_enough() -> bool | None:
        emitted = [each for each in events_of(program) if each["event"] == "progress"]
        return (emitted and emitted[-1]["sent"] > amount) or None

    until(far_enough, f"for {amount} bytes to be sent")


@pytest.mark.parametrize(
    "options",
    [
        ("--p2p",),
        ("--direct",),
        ("--p2p", "--parallel", "4"),
        ("--direct", "--parallel", "4"),
        ("--auto-converge", "--bandwidth", "200MiB/s"),
        ("--no-live",),
    ],
    ids=" ".join,
)
def test_guest_moves(lab: Lab, options: tuple[str, ...]) -> None:
    guest = lab.start_guest("web1")
    linked(lab)
    code, emitted, stderr = migrate(lab, *options)
    assert code == 0, stderr
    assert [each["check"] for each in emitted if each["event"] == "check"] == [
        "link",
        "targets",
        "libvirt",
        "guest",
        "destination",
        "streams",
    ]
    assert emitted[-1] == {**emitted[-1], "event": "ended", "result": "done", "runs_at": "destination"}
    assert lab.runner("web1") is lab.b
    guest.verify(lab.b)
    assert not lab.b.firewall.refused()


@pytest.mark.parametrize("flow", ["--p2p", "--direct"])
def test_postcopy_switches_after_the_first_pass(lab: Lab, flow: str) -> None:
    lab.b.libvirtd.configure(qemu={"user": "root", "group": "root"})  # root may use userfaultfd
    guest = lab.start_guest("web1", workload=Workload(working_set=48 * MIB, dirty_rate=8 * MIB))
    linked(lab)
    code, emitted, stderr = migrate(lab, flow, "--postcopy", "--bandwidth", "8MiB/s")  # seconds of post-copy
    assert code == 0, stderr
    assert emitted[-1]["summary"]["postcopied"]
    assert any(each["event"] == "progress" and each["postcopy"] for each in emitted)
    assert lab.runner("web1") is lab.b
    guest.verify(lab.b)


def test_disks_move_along(lab: Lab) -> None:
    guest = lab.start_guest("web1", disks=[Disk(16 * MIB), Disk(16 * MIB, "qcow2")])
    guest.prepare_disks(lab.b)
    linked(lab)
    code, _, stderr = migrate(lab, "--copy-storage", "all")
    assert code == 0, stderr
    assert lab.runner("web1") is lab.b
    guest.verify(lab.b)
    assert not lab.b.firewall.refused()


def test_redirected_range_lets_libvirt_choose_its_ports(lab: Lab) -> None:
    guest = lab.start_guest("web1", disks=[Disk(16 * MIB)])
    guest.prepare_disks(lab.b)
    linked(lab, RPC, LabIngress("hostb", "redirect:127.0.1.2:49152-49215"))
    code, emitted, stderr = migrate(lab, "--copy-storage", "all", "--parallel", "2")
    assert code == 0, stderr
    assert next(each for each in emitted if each["event"] == "started")["route"] == "tcp://127.0.1.2"
    assert lab.runner("web1") is lab.b
    guest.verify(lab.b)


def test_postcopy_that_the_kernel_forbids_has_a_hint(lab: Lab) -> None:
    guest = lab.start_guest("web1")
    linked(lab)
    code, _, stderr = migrate(lab, "--postcopy")
    assert code == 1
    assert "vm.unprivileged_userfaultfd=1" in stderr
    guest.verify(lab.a)


def test_failed_postcopy_is_resumed(lab: Lab) -> None:
    lab.b.libvirtd.configure(qemu={"user": "root", "group": "root"})  # root may use userfaultfd
    guest = lab.start_guest("web1", workload=RESTLESS)
    linked(lab, transport={"resume_window": "0s"})
    program = lab.a.start(command("--postcopy", "--timeout", "1s", "--timeout-action", "postcopy", *SLOW))
    until(lambda: any(each.get("postcopy") for each in events_of(program)) or None, "for post-copy")
    lab.b.daemons[-1].kill()
    assert program.wait() in {1, 4}
    assert "--postcopy-resume" in program.output()
    lab.b.daemons[-1].restart()
    lab.a.daemons[-1].wait_linked("hostb")
    code, emitted, stderr = migrate(lab, "--postcopy", "--postcopy-resume")
    if crashes_when_resuming(lab.b):
        assert code == 1
        assert "crashes when post-copy is resumed" in stderr
        assert lab.b.libvirtd.running, "it was not called"
        lab.b.libvirtd.stop()
        take_up_by_hand(lab, 49152)
        until(lambda: lab.states("web1") == ("shut off", "running"), "for the guest to have arrived")
    else:
        assert code == 0, stderr
        assert emitted[-1]["runs_at"] == "destination"
    assert lab.states("web1") == ("shut off", "running")
    guest.verify(lab.b)


def test_policy_that_demands_qemus_own_tls_is_explained(lab: Lab) -> None:
    guest = lab.start_guest("web1")
    lab.a.libvirtd.configure(qemu={"migrate_tls_force": 1})
    linked(lab)
    code, _, stderr = migrate(lab)
    assert code == 1
    assert "--tls-destination NAME, or set migrate_tls_force = 0" in stderr
    assert "The guest is still running at hosta" in stderr
    guest.verify(lab.a)
    code, _, stderr = migrate(lab, "--tls-destination", lab.b.plan.fqdn)
    assert code == 0, stderr
    guest.verify(lab.b)


def test_configuration_is_moved_on_request(lab: Lab) -> None:
    lab.start_guest("web1")
    linked(lab)
    assert migrate(lab, "--persist", "--undefine-source")[0] == 0
    assert lab.states("web1") == ("absent", "running")
    lab.b.virsh("destroy", "web1")
    assert lab.states("web1") == ("absent", "shut off")


@pytest.mark.parametrize("flow", ["--p2p", "--direct"])
def test_ctrl_c_leaves_the_guest_running_here(lab: Lab, flow: str) -> None:
    guest = lab.start_guest("web1", workload=RESTLESS)
    linked(lab)
    program = lab.a.start(command(flow, *SLOW))
    wait_sent(program, MIB)
    program.signal(signal.SIGINT)
    program.signal(signal.SIGINT)
    assert program.wait() == 1
    assert "Aborted. The guest is still running at hosta, the source, and nowhere else." in program.output()
    assert lab.runner("web1") is lab.a
    guest.verify(lab.a)


@pytest.mark.parametrize("action", ["suspend", "abort"])
def test_timeout_acts(lab: Lab, action: str) -> None:
    guest = lab.start_guest("web1", workload=RESTLESS)
    linked(lab)
    code, emitted, stderr = migrate(
        lab, "--timeout", "2s", "--timeout-action", action, "--bandwidth", "8MiB/s"
    )
    arrived = action == "suspend"
    assert code == (0 if arrived else 1), stderr
    where = lab.b if arrived else lab.a
    assert lab.runner("web1") is where
    guest.verify(where)
    assert any(each["event"] == "notice" and action in each["text"] for each in emitted)


def test_same_host_uuid_is_refused_before_anything_moves(lab: Lab) -> None:
    guest = lab.start_guest("web1")
    linked(lab, LabIngress("hostb", RPC.listen, RPC.target), RAM)
    code, emitted, stderr = migrate(lab, "--desturi", "qemu:///system")
    assert code == 2
    assert "have the same host UUID" in " ".join(stderr.split())
    assert "host_uuid" in stderr
    assert not [each for each in emitted if each["event"] == "started"]
    guest.verify(lab.a)


def test_peer_that_is_down_is_4(lab: Lab) -> None:
    guest = lab.start_guest("web1")
    linked(lab)
    lab.b.daemons[-1].kill()
    code, emitted, stderr = migrate(lab)
    assert code == 4
    assert "hostb is not reachable" in stderr
    assert emitted[-1]["exit_code"] == 4
    guest.verify(lab.a)


def test_libvirt_that_is_not_running_is_4(lab: Lab) -> None:
    guest = lab.start_guest("web1")
    absent = "unix:/run/libvirt/virtqemud-sock"
    lab.start_daemons((LabIngress("hostb", RPC.listen, absent), RAM), egress=(MIGRATION_PORTS, absent))
    code, _, stderr = migrate(lab)
    assert code == 4
    assert "cannot connect to libvirt at qemu+unix" in stderr
    cause = "The tunnel reports: stream refused by the peer: on hostb: cannot connect to unix:/run/libvirt"
    assert cause in " ".join(stderr.split())
    guest.verify(lab.a)


def test_target_that_is_not_allowed_is_3_and_named(lab: Lab) -> None:
    guest = lab.start_guest("web1")
    lab.start_daemons((RPC, RAM), egress=("unix:/run/libvirt/libvirt-sock",))
    code, _, stderr = migrate(lab)
    assert code == 3
    assert 'add "tcp:127.0.0.1:49152" to egress of [[peer]] name = "hosta" on hostb' in " ".join(
        stderr.split()
    )
    guest.verify(lab.a)


@pytest.mark.parametrize("guest", ["web9", "web1"])
def test_guest_that_cannot_move_is_named(lab: Lab, guest: str) -> None:
    lab.start_guest("web1")
    linked(lab)
    lab.a.virsh("destroy", "web1")
    argv = [guest if word == "web1" else word for word in command()]
    done = lab.a.run(argv, check=False)
    assert done.returncode == 1
    expected = "no guest 'web9' at" if guest == "web9" else "web1 is shut off"
    assert expected in done.stderr


def test_name_that_is_taken_at_the_destination_is_named(lab: Lab) -> None:
    guest = lab.start_guest("web1")
    linked(lab)
    xml = lab.a.virsh("dumpxml", "web1").stdout
    path = lab.directory / "shared" / "taken.xml"
    path.write_text(xml)
    lab.b.virsh("create", str(path))
    code, _, stderr = migrate(lab)
    assert code == 1
    assert "a guest named 'web1' is already running" in stderr
    assert stderr.count(lab.a.virsh("domuuid", "web1").stdout.strip()) == 2
    assert "stop" not in stderr
    guest.verify(lab.a)
    path.unlink()


def test_second_migration_leaves_the_first_alone(lab: Lab) -> None:
    guest = lab.start_guest("web1", workload=RESTLESS)
    linked(lab)
    first = lab.a.start(command("--timeout", "10s", *SLOW))
    wait_sent(first, MIB)
    code, emitted, stderr = migrate(lab)
    assert code == 1
    assert "libvirt is already running another job (migration out)" in " ".join(stderr.split())
    assert "still running" not in stderr
    assert not [each for each in emitted if each["event"] == "started"]
    assert first.wait(60) == 0, first.output()
    assert lab.runner("web1") is lab.b
    guest.verify(lab.b)


def test_user_of_qemu_that_is_not_allowed_is_refused_before_anything_moves(lab: Lab) -> None:
    guest = lab.start_guest("web1")
    linked(lab, RPC, LabIngress(RAM.peer, RAM.listen, users=["root"]))
    code, emitted, stderr = migrate(lab, "--parallel", "2")
    assert code == 3
    assert "runs as user libvirt-qemu, which may not use the ingress tcp:127.0.1.2:49152" in " ".join(
        stderr.split()
    )
    assert not [each for each in emitted if each["event"] == "started"]
    guest.verify(lab.a)


def test_saved_guest_is_refused(lab: Lab) -> None:
    lab.start_guest("web1")
    linked(lab)
    lab.a.virsh("managedsave", "web1")
    code, _, stderr = migrate(lab)
    assert code == 1
    assert "web1 is saved at qemu:///system" in stderr
    lab.a.virsh("managedsave-remove", "web1")  # the image prevents undefining the guest


def test_disks_without_a_route_name_the_missing_ingress(lab: Lab) -> None:
    lab.start_guest("web1", disks=[Disk(16 * MIB)])
    linked(lab, RPC, RAM)
    code, _, stderr = migrate(lab, "--copy-storage", "all")
    assert code == 2
    assert 'listen = "tcp:127.0.1.2:49153"' in stderr
    assert lab.runner("web1") is lab.a
