"""A host returns the state of its guests, finds their QEMU, and can be restored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.bench.lab.test_programs import Nowhere
from tests.support.lab import Listener, reaches
from tunnel.bench.lab import layout, programs
from tunnel.bench.lab.host import LabHost
from tunnel.bench.lab.host_plan import LabHostPlan
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.programs import Done
from tunnel.bench.lab.waiting import LabError, until
from tunnel.units import MIB

SMALL = 16 * MIB

JOB = """\
Job type:         Completed   \n\
Time elapsed:     185          ms
Memory bandwidth: 2.4 MiB/s

"""


class Answers:
    """Stands in for the programs of a host, by the first words of their commands."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.inputs: list[str] = []
        self.prepared: dict[tuple[str, ...], Done] = {}

    def say(self, *words: str, stdout: str = "", stderr: str = "", returncode: int = 0) -> None:
        """Prepare the result of every command that begins with ``words``."""
        self.prepared[words] = Done([], returncode, stdout, stderr)

    def __call__(self, inside: object, argv: Sequence[str], **options: Any) -> Done:
        self.asked.append(list(argv))
        self.inputs.append(options["input"] or "")
        for words, answer in self.prepared.items():
            if tuple(argv[: len(words)]) == words:
                return answer
        return Done([], 0, "", "")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """A stand-in for ``programs.run``."""
    prepared = Answers()
    monkeypatch.setattr(programs, "run", prepared)
    return prepared


@pytest.fixture
def host(
    plans: tuple[LabHostPlan, LabHostPlan], monkeypatch: pytest.MonkeyPatch, answers: Answers
) -> LabHost:
    """Host A, which has files but no namespaces."""
    monkeypatch.setattr("tunnel.bench.lab.host.Namespaces", lambda plan: Nowhere())
    plans[0].directory.mkdir()
    plans[0].outside("/etc").mkdir()
    return LabHost(*plans)


def test_the_state_of_a_guest_is_that_of_libvirt(host: LabHost, answers: Answers) -> None:
    answers.say("virsh", "domstate", "web1", stdout="shut off\n\n")
    answers.say("virsh", "domstate", "web2", stderr="error: failed to get domain 'web2'", returncode=1)
    gone = (
        "error: Domain not found: no domain with matching uuid '7a1e' (web3)"  # after its name was resolved
    )
    answers.say("virsh", "domstate", "web3", stderr=gone, returncode=1)
    answers.say("virsh", "domstate", "web4", stderr="error: no connection", returncode=1)
    assert [host.state(name) for name in ("web1", "web2", "web3")] == ["shut off", "absent", "absent"]
    with pytest.raises(LabError, match="cannot get the state of web4 on hosta: error: no connection"):
        host.state("web4")


def test_the_lines_of_a_job_become_a_dict(host: LabHost, answers: Answers) -> None:
    answers.say("virsh", "domjobinfo", "web1", "--completed", stdout=JOB)
    assert host.job("web1", completed=True) == {
        "Job type": "Completed",
        "Time elapsed": "185          ms",
        "Memory bandwidth": "2.4 MiB/s",
    }


def test_without_a_pid_file_there_is_no_process(host: LabHost) -> None:
    assert host.find("/run/nobody.pid") is None
    with pytest.raises(LabError, match="no QEMU for web1 is running on hosta"):
        host.kill_qemu("web1")


def test_a_pid_file_is_translated(
    host: LabHost, monkeypatch: pytest.MonkeyPatch, plans: tuple[LabHostPlan, LabHostPlan]
) -> None:
    assert not host.has_qemu("web1")
    plans[0].outside("/run/libvirt/qemu").mkdir(parents=True)
    plans[0].outside("/run/libvirt/qemu/web1.pid").write_text("17\n")
    assert host.has_qemu("web1")
    monkeypatch.setattr(Nowhere, "outside_pid", lambda self, inside: inside + 1000, raising=False)
    assert host.qemu_pid("web1") == 1017


def test_a_reset_restores_the_hosts_files_and_firewall(
    host: LabHost, answers: Answers, monkeypatch: pytest.MonkeyPatch, plans: tuple[LabHostPlan, LabHostPlan]
) -> None:
    monkeypatch.setattr("tunnel.bench.lab.libvirtd.Libvirtd.restore", lambda self: None)
    program = host.start(["sleep", "300"])
    host.reset()
    assert not program.running
    assert "192.0.2.2 hostb.lab" in plans[0].outside("/etc/hosts").read_text()
    assert answers.asked[0] == ["nft", "flush", "ruleset"]
    assert "open { type inet_service; flags interval; elements = { 16515 } }" in answers.inputs[1]
    host.reset()
    host.forget()


def test_the_socket_of_libvirtd_is_reached_from_outside(host: LabHost, tmp: Path) -> None:
    assert host.libvirt_socket == tmp / "A/run/libvirt/libvirt-sock"
    assert host.name == "hosta"


@pytest.mark.root
def test_an_unknown_guest_is_absent(lab: Lab) -> None:
    assert lab.a.state("nobody") == "absent"
    assert lab.a.guests() == []


@pytest.mark.root
def test_states_are_those_of_libvirt(lab: Lab) -> None:
    lab.start_guest(memory=SMALL)
    assert lab.a.guests() == ["web1"]
    lab.a.virsh("suspend", "web1")
    assert lab.a.state("web1") == "paused"
    lab.a.virsh("destroy", "web1")
    assert lab.a.state("web1") == "shut off"


@pytest.mark.root
def test_a_guests_qemu_is_found_and_killed(lab: Lab) -> None:
    lab.start_guest(memory=SMALL)
    pid = lab.a.qemu_pid("web1")
    assert psutil.Process(pid).name().startswith("qemu-system")
    assert psutil.Process(pid).username() == layout.QEMU_USER
    lab.a.kill_qemu("web1")
    until(lambda: lab.a.state("web1") == "shut off", "for libvirt to report the guest as shut off")
    with pytest.raises(LabError, match="no QEMU for web1 is running on hosta"):
        lab.a.qemu_pid("web1")


@pytest.mark.root
def test_a_job_is_read_line_by_line(lab: Lab) -> None:
    lab.start_guest(memory=SMALL)
    assert lab.a.job("web1") == {"Job type": "None"}


@pytest.mark.root
def test_a_failing_command_is_an_error_with_its_output(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"virsh start nobody failed with status 1: error: failed to get"):
        lab.a.virsh("start", "nobody")


@pytest.mark.root
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
