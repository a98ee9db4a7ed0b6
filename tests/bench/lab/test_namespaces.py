"""A host has its own namespaces, which end with the process that created them."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tunnel.bench.lab.host_plan import LabHostPlan
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.namespaces import Namespaces, script
from tunnel.bench.lab.waiting import LabError, until

OWNER = """
import signal, sys
from pathlib import Path
from tunnel.bench.lab import layout
from tunnel.bench.lab.namespaces import Namespaces
from tunnel.bench.lab.host_plan import plan
plans = plan(Path(sys.argv[1]))
layout.lay_out(plans[0], plans)
namespaces = Namespaces(plans[0])
namespaces.wait_ready()
print(namespaces.pid, flush=True)
signal.pause()
"""


def test_each_own_directory_is_mounted_where_the_host_expects_it(
    plans: tuple[LabHostPlan, LabHostPlan],
) -> None:
    lines = script(plans[0]).splitlines()
    for inside, outside in plans[0].own.items():
        assert f"mount --bind {outside} {inside}" in lines
    # The machine's /etc must be bind-mounted elsewhere before it is covered, in the host's own /run.
    where = [
        lines.index(f"mount --bind {place}")
        for place in (f"{plans[0].own['/run']} /run", "/etc /run/machine-etc", f"{plans[0].own['/etc']} /etc")
    ]
    assert where == sorted(where)
    assert "hostname hosta.lab" in lines


def test_paths_are_quoted(plans: tuple[LabHostPlan, LabHostPlan]) -> None:
    odd = Path("/lab/a b;c")
    host = LabHostPlan(
        **{name: getattr(plans[0], name) for name in LabHostPlan.__slots__} | {"directory": odd}
    )
    assert f"mount --bind {shlex.quote(str(odd / 'run'))} /run" in script(host).splitlines()


@pytest.mark.root
def test_the_hosts_have_nothing_in_common_but_the_machine(lab: Lab) -> None:
    for kind in ("net", "mnt", "uts", "pid"):
        places = {Path(f"/proc/{pid}/ns/{kind}").readlink() for pid in ("self", *_first(lab))}
        assert len(places) == 3, kind


def _first(lab: Lab) -> list[str]:
    return [str(host.namespaces.pid) for host in lab.hosts]


@pytest.mark.root
def test_a_host_sees_its_own_directories_and_the_machines_others(lab: Lab) -> None:
    lab.a.plan.outside("/run/here").write_text("a")
    assert lab.a.run(["cat", "/run/here"]).stdout == "a"
    assert lab.b.run(["cat", "/run/here"], check=False).returncode == 1
    assert not Path("/run/here").exists()
    assert lab.a.run(["cat", "/etc/os-release"]).stdout == Path("/etc/os-release").read_text()
    assert lab.a.run(["hostname"]).stdout == "hosta.lab\n"
    assert "hosta" not in os.uname().nodename


@pytest.mark.root
def test_a_host_sees_no_process_but_its_own(lab: Lab) -> None:
    found = lab.a.run(
        ["sh", "-c", "cat /proc/[0-9]*/comm"], check=False
    ).stdout.split()  # some exit meanwhile
    assert "libvirtd" in found
    assert not any("python" in name or "pytest" in name for name in found)


@pytest.mark.root
def test_orphans_are_reaped(lab: Lab) -> None:
    orphan = lab.a.run(["sh", "-c", "sleep 0.1 >/dev/null 2>&1 & echo $!"]).stdout.strip()
    there = ["test", "-e", f"/proc/{orphan}"]  # also exists for a zombie
    until(lambda: lab.a.run(there, check=False).returncode == 1, "for the orphan to be reaped")


@pytest.mark.root
def test_every_process_ends_with_a_killed_owner(tmp: Path, plans: tuple[LabHostPlan, LabHostPlan]) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, tmp], stdout=subprocess.PIPE, text=True) as owner:
        first = _read_pid(owner)
        members = [first, *first.children(recursive=True)]
        # No handler runs.
        owner.send_signal(signal.SIGKILL)
    until(lambda: not any(one.is_running() and _alive(one) for one in members), "for the host to end")


def _read_pid(owner: subprocess.Popen[str]) -> psutil.Process:
    assert owner.stdout is not None
    return psutil.Process(int(owner.stdout.readline()))


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.root
def test_a_host_that_cannot_start_reports_the_reason(plans: tuple[LabHostPlan, LabHostPlan]) -> None:
    plans[0].directory.mkdir()  # empty
    namespaces = Namespaces(plans[0])
    with pytest.raises(LabError, match=r"hosta failed to start: mount: .*"):
        namespaces.wait_ready()
    namespaces.close()
    assert namespaces.members() == []
