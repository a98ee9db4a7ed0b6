"""The lab starts, runs a migration, and leaves nothing; it takes over no foreign directory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from tests.support.lab import open_directory
from tunnel.bench.lab.configs import LabConfig, LabIngress
from tunnel.bench.lab.disks import Disk
from tunnel.bench.lab.host import LabHost
from tunnel.bench.lab.host_plan import LabHostPlan
from tunnel.bench.lab.lab import Lab, claim
from tunnel.bench.lab.waiting import LabError
from tunnel.errors import UsageError
from tunnel.proof.pattern_guest import Workload
from tunnel.units import MIB

GUEST = 32 * MIB


def test_a_directory_is_claimed_by_one(tmp: Path) -> None:
    tmp.chmod(0o711)
    with claim(tmp / "lab"), pytest.raises(UsageError, match=r"a lab is already up in .*/lab"):
        claim(tmp / "lab")
    claim(tmp / "lab").close()


def test_files_of_a_killed_lab_are_removed(tmp: Path) -> None:
    tmp.chmod(0o711)
    claim(tmp / "lab").close()
    (tmp / "lab/A/run").mkdir(parents=True)
    (tmp / "lab/B").symlink_to("/etc")  # whose target must not be removed
    (tmp / "lab/lab.json").touch()
    with claim(tmp / "lab"):
        assert [path.name for path in (tmp / "lab").iterdir()] == ["lock"]
    assert Path("/etc/passwd").exists()


def test_a_directory_with_other_files_is_not_touched(tmp: Path) -> None:
    tmp.chmod(0o711)
    (tmp / "thesis.txt").touch()
    with pytest.raises(UsageError, match=r"is not a lab directory: thesis\.txt"):
        claim(tmp)
    assert [path.name for path in tmp.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("place", ["lab", "/run/lab", "/etc/lab", "/var/lib/libvirt/lab", "/no/such/lab"])
def test_an_unsuitable_directory_is_refused(place: str) -> None:
    with pytest.raises(UsageError, match=r"absolute path|would not be visible|is not a directory"):
        claim(Path(place))


def test_a_directory_that_qemu_cannot_reach_is_refused(tmp: Path) -> None:
    tmp.chmod(0o700)
    with pytest.raises(UsageError, match=f"{tmp} is not accessible to other users"):
        claim(tmp / "lab")


def test_a_lab_that_is_not_up_has_no_hosts(tmp: Path) -> None:
    down = Lab(tmp / "lab")
    with pytest.raises(LabError, match=r"the lab in .* is not up"):
        print(down.a)
    down.down()


def test_nothing_is_created_when_a_requirement_is_missing(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnel.bench.lab.requirements.missing", lambda: ["root: no"])
    with pytest.raises(UsageError, match="root: no"), Lab(tmp / "lab"):
        pass
    assert list(tmp.iterdir()) == []


class Somewhere:
    """A stand-in for a host that returns a prepared state for each guest."""

    def __init__(self, plan: LabHostPlan, peer: LabHostPlan, done: list[str], *said: str) -> None:
        """``done`` records the operations on the daemons of all hosts, in order."""
        self.plan, self.peer, self.name = plan, peer, plan.name
        self.daemons: list[Any] = []
        self.done = done
        self._said = said

    def state(self, guest: str) -> str:
        return self._said[int(guest)]

    def start_daemon(self, config: LabConfig, *, wait: bool) -> None:
        self.done.append(f"{self.name} {'waited for' if wait else 'started'}")
        self.daemons.append(
            SimpleNamespace(
                config=config,
                wait_serving=lambda: self.done.append(f"{self.name} waited for"),
                wait_linked=lambda peer: self.done.append(f"{self.name} linked with {peer}"),
            )
        )


@pytest.fixture
def hollow(plans: tuple[LabHostPlan, LabHostPlan], tmp: Path) -> Lab:
    """A lab of such hosts. Guest 0 runs on A, guest 1 on both, guest 2 on none."""
    a, b = plans
    lab = Lab(tmp)
    done: list[str] = []
    hosts = (
        Somewhere(a, b, done, "running", "running", "paused"),
        Somewhere(b, a, done, "absent", "running", "shut off"),
    )
    lab._hosts = cast("tuple[LabHost, LabHost]", hosts)
    return lab


def test_a_guest_runs_on_one_host_or_it_is_an_error(hollow: Lab) -> None:
    assert hollow.runner("0") is hollow.a
    assert hollow.states("2") == ("paused", "shut off")
    for guest, said in (("1", "running, running"), ("2", "paused, shut off")):
        with pytest.raises(LabError, match=f"must run on exactly one host; on hosta, hostb it is {said}"):
            hollow.runner(guest)


def test_an_ingress_is_created_on_the_host_opposite_to_its_peer(hollow: Lab) -> None:
    there, back = LabIngress("hostb", "tcp:127.0.1.2:49152"), LabIngress("hosta", "tcp:127.0.1.1:49152")
    first, second = cast("tuple[Any, Any]", hollow.start_daemons([there, back], egress=["tcp:127.0.0.1:7"]))
    assert list(first.config.ingresses) == [there]
    assert list(second.config.ingresses) == [back]
    assert [peer.egress for peer in first.config.peers] == [["tcp:127.0.0.1:7"]]
    assert cast("Any", hollow.a).done == [
        *("hosta started", "hostb started"),  # before waiting for either
        *("hosta waited for", "hostb waited for"),
        *("hosta linked with hostb", "hostb linked with hosta"),
    ]


def test_an_ingress_to_an_unknown_peer_is_refused(hollow: Lab) -> None:
    with pytest.raises(LabError, match="hostc is not a host of the lab"):
        hollow.start_daemons([LabIngress("hostc", "tcp:127.0.1.2:49152")])


@pytest.mark.root
def test_a_lab_leaves_nothing(tmp: Path) -> None:
    with open_directory() as home, Lab(home / "lab") as lab:
        lab.start_guest(memory=GUEST)
        lab.start_daemons([])
        members = [process for host in lab.hosts for process in host.namespaces.members()]
        assert {"libvirtd", "sh"} < {process.name() for process in members}
        lab.down()
        assert not [process for process in members if psutil.pid_exists(process.pid)]
        assert list(home.iterdir()) == []
        lab.down()  # safe to call twice


@pytest.mark.root
def test_a_lab_that_does_not_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnel.bench.lab.wires.connect", _fail)
    with open_directory() as home:
        lab = Lab(home / "lab")
        with pytest.raises(LabError, match="no wire"):
            lab.up()
        assert list(home.iterdir()) == []


def _fail(_pids: tuple[int, int]) -> None:
    raise LabError("no wire")


@pytest.mark.root
def test_two_labs_are_independent(lab: Lab) -> None:
    with open_directory() as home, Lab(home / "lab") as other:
        other.start_guest(memory=GUEST)
        assert lab.states("web1") == ("absent", "absent")


@pytest.mark.root
def test_a_guest_moves_natively_with_its_disks(lab: Lab) -> None:
    guest = lab.start_guest(memory=GUEST, disks=[Disk(MIB), Disk(MIB, "qcow2")])
    guest.prepare_disks(lab.b)
    lab.b.firewall.open(16509, "49152-49215")
    lab.a.virsh("migrate", "--live", "--copy-storage-all", "web1", "qemu+tcp://hostb.lab/system")
    assert lab.states("web1") == ("shut off", "running")
    assert lab.runner("web1") is lab.b
    guest.verify(lab.b)
    assert lab.b.job("web1", completed=True)["Job type"] == "Completed"


@pytest.mark.root
def test_only_the_difference_moves_over_a_shared_backing_file(lab: Lab) -> None:
    guest = lab.start_guest(memory=GUEST, disks=[Disk(4 * MIB, "qcow2", backing=True)])
    guest.prepare_disks(lab.b)
    lab.b.firewall.open(16509, "49152-49215")
    lab.a.virsh("migrate", "--live", "--copy-storage-inc", "web1", "qemu+tcp://hostb.lab/system")
    guest.verify(lab.b)


@pytest.mark.root
def test_a_native_migration_with_qemus_own_tls(lab: Lab) -> None:
    guest = lab.start_guest(memory=GUEST)
    lab.b.firewall.open(16514, "49152-49215")
    lab.a.virsh("migrate", "--live", "--p2p", "--tls", "web1", "qemu+tls://hostb.lab/system")
    guest.verify(lab.b)


@pytest.mark.root
def test_a_guest_moves_in_postcopy_mode(lab: Lab) -> None:
    lab.allow_postcopy()
    guest = lab.start_guest(memory=GUEST, workload=Workload(8 * MIB, dirty_rate=None))
    lab.b.firewall.open(16509, "49152-49215")
    how = ("--live", "--postcopy", "--postcopy-after-precopy")
    lab.a.virsh("migrate", *how, "web1", "qemu+tcp://hostb.lab/system")
    assert lab.states("web1") == ("shut off", "running")
    guest.verify(lab.b)


@pytest.mark.root
def test_a_guest_moves_through_mtunnel_with_the_firewall_closed(lab: Lab) -> None:
    guest = lab.start_guest(memory=GUEST, persistent=False)
    lab.start_daemons([LabIngress("hostb", "tcp:127.0.1.2:49152")])
    uri = f"qemu+unix:///system?socket={lab.b.libvirt_socket}"
    away = ("--migrateuri", "tcp://127.0.1.2:49152", "--listen-address", "127.0.0.1")
    lab.a.virsh("migrate", "--live", "web1", uri, *away)
    assert lab.states("web1") == ("absent", "running")
    guest.verify(lab.b)
    assert lab.b.firewall.refused() == {}


@pytest.mark.root
def test_a_guest_that_runs_nowhere_has_no_runner(lab: Lab) -> None:
    lab.start_guest(memory=GUEST)
    lab.a.virsh("destroy", "web1")
    with pytest.raises(
        LabError, match="web1 must run on exactly one host; on hosta, hostb it is shut off, absent"
    ):
        lab.runner("web1")


@pytest.mark.root
def test_a_guest_name_is_unique(lab: Lab) -> None:
    lab.start_guest(memory=GUEST)
    with pytest.raises(LabError, match="guest web1 already exists"):
        lab.start_guest(memory=GUEST)


@pytest.mark.root
def test_the_name_of_a_removed_guest_is_free(lab: Lab) -> None:
    lab.start_guest(memory=16 * MIB)
    lab.end_guest("web1")
    assert lab.states("web1") == ("absent", "absent")
    lab.start_guest(memory=16 * MIB, touched=True)
    assert lab.runner("web1") is lab.a
