"""Each host has its own libvirtd, which can be stopped, killed and reconfigured while guests run."""

from __future__ import annotations

from collections.abc import Callable

import psutil
import pytest

from tunnel.bench.lab.host_plan import LabHostPlan
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.libvirtd import Libvirtd
from tunnel.bench.lab.programs import Done
from tunnel.bench.lab.waiting import LabError


def _done(returncode: int, said: str = "") -> Done:
    return Done([], returncode, stdout="", stderr=said)


def test_a_libvirtd_that_is_not_running_has_no_process(plans: tuple[LabHostPlan, LabHostPlan]) -> None:
    libvirtd = Libvirtd(plans[0], lambda _: _done(0), lambda _: None)
    assert not libvirtd.running
    libvirtd.stop()
    libvirtd.kill()
    with pytest.raises(LabError, match="libvirtd on hosta is not running"):
        print(libvirtd.pid)


def test_a_failed_start_is_an_error_with_output_and_log(plans: tuple[LabHostPlan, LabHostPlan]) -> None:
    log = plans[0].outside("/var/log/libvirt/libvirtd.log")
    log.parent.mkdir(parents=True)
    log.write_text("the reason\n")
    libvirtd = Libvirtd(plans[0], lambda _: _done(6, "initialization failed"), lambda _: None)
    with pytest.raises(LabError, match=r"failed to start: initialization failed\n  the reason"):
        libvirtd.start()


def test_a_libvirtd_that_exits_during_the_start_is_an_error(plans: tuple[LabHostPlan, LabHostPlan]) -> None:
    libvirtd = Libvirtd(plans[0], lambda _: _done(0), lambda _: None)
    with pytest.raises(LabError, match="libvirtd on hosta is not running"):
        libvirtd.start()


@pytest.mark.root
def test_the_hosts_have_separate_libvirtds(lab: Lab) -> None:
    uuids = [host.run(["sh", "-c", "virsh capabilities | grep uuid"]).stdout.strip() for host in lab.hosts]
    assert uuids == [f"<uuid>{host.plan.uuid}</uuid>" for host in lab.hosts]
    assert [host.virsh("hostname").stdout.strip() for host in lab.hosts] == ["hosta.lab", "hostb.lab"]


@pytest.mark.root
def test_either_is_reached_from_the_other_host_by_its_socket_alone(lab: Lab) -> None:
    by_path = lab.a.virsh("-c", f"qemu+unix:///system?socket={lab.b.libvirt_socket}", "hostname")
    assert by_path.stdout.strip() == "hostb.lab"
    lab.b.firewall.close(but=(16515,), reject=True)
    refused = lab.a.virsh("-c", "qemu+tcp://hostb.lab/system", "hostname", check=False)
    assert "Connection refused" in refused.stderr


@pytest.mark.root
@pytest.mark.parametrize("end", [Libvirtd.stop, Libvirtd.kill])
def test_a_guest_outlives_its_libvirtd(lab: Lab, end: Callable[[Libvirtd], None]) -> None:
    guest = lab.start_guest(memory=16 << 20)
    libvirtd = lab.a.libvirtd
    before = libvirtd.pid
    end(libvirtd)
    assert not psutil.pid_exists(before)
    guest.verify(lab.a)  # which needs no libvirtd
    with pytest.raises(LabError, match="cannot get the state of web1 on hosta"):
        lab.a.state("web1")
    libvirtd.start()
    assert libvirtd.pid != before
    assert lab.a.state("web1") == "running"


@pytest.mark.root
def test_other_settings_last_until_they_are_restored(lab: Lab) -> None:
    uuid = lab.a.plan.uuid
    lab.b.libvirtd.configure(libvirtd={"host_uuid": uuid})
    assert uuid in lab.b.virsh("capabilities").stdout
    lab.reset()
    assert uuid not in lab.b.virsh("capabilities").stdout


@pytest.mark.root
def test_settings_that_libvirtd_refuses_are_an_error(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"(?s)libvirtd on hosta failed to start: .*listen_tcp"):
        lab.a.libvirtd.configure(libvirtd={"listen_tcp": "perhaps"})
