"""A host says how its guests are, finds their QEMU, and is put back to what it was."""

from __future__ import annotations

import psutil
import pytest

from tests.support.lab import Listener, reaches
from tunnel.bench.lab import layout
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.waiting import LabError, until
from tunnel.virt.guest import MIB

pytestmark = pytest.mark.root

SMALL = 16 * MIB


def test_a_guest_nobody_knows_is_absent(lab: Lab) -> None:
    assert lab.a.state("nobody") == "absent"
    assert lab.a.guests() == []


def test_states_are_libvirts_own_words(lab: Lab) -> None:
    lab.start_guest(memory=SMALL)
    assert lab.a.guests() == ["web1"]
    lab.a.virsh("suspend", "web1")
    assert lab.a.state("web1") == "paused"
    lab.a.virsh("destroy", "web1")
    assert lab.a.state("web1") == "shut off"


def test_a_guests_qemu_is_found_and_killed(lab: Lab) -> None:
    lab.start_guest(memory=SMALL)
    pid = lab.a.qemu_pid("web1")
    assert psutil.Process(pid).name().startswith("qemu-system")
    assert psutil.Process(pid).username() == layout.QEMU_USER
    lab.a.kill_qemu("web1")
    until("libvirt to notice", lambda: lab.a.state("web1") == "shut off")
    with pytest.raises(LabError, match="no QEMU of web1 runs on hosta"):
        lab.a.qemu_pid("web1")


def test_a_job_is_read_line_by_line(lab: Lab) -> None:
    lab.start_guest(memory=SMALL)
    assert lab.a.job("web1") == {"Job type": "None"}


def test_a_failing_command_is_an_error_with_its_words(lab: Lab) -> None:
    with pytest.raises(
        LabError, match=r"virsh start nobody failed with status 1 and said: error: failed to get"
    ):
        lab.a.virsh("start", "nobody")


def test_a_reset_ends_and_restores_everything(lab: Lab) -> None:
    program = lab.a.start(["sleep", "300"])
    daemon = lab.start_daemons([])[0]
    lab.start_guest(memory=SMALL)
    lab.b.run(["nft", "add", "table", "ip", "left_behind"])
    lab.b.firewall.open(16509)
    lab.b.libvirtd.kill()
    layout.write_hosts(lab.b.plan, ())
    lab.reset()
    assert (program.running, daemon.running) == (False, False)
    assert lab.states("web1") == ("absent", "absent")
    assert "hosta.lab" in lab.b.run(["cat", "/etc/hosts"]).stdout
    assert lab.b.run(["nft", "list", "tables"]).stdout == "table inet lab_firewall\n"
    with Listener(lab.b, 16515):
        assert reaches(lab.a, "hostb.lab", 16515)
        assert not reaches(lab.a, "hostb.lab", 16509)
