"""README's commands, executed literally on two new hosts: keys, firewall, daemons, migrations."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support.bare_guest import BareGuest
from tests.support.lab import reaches
from tests.support.migrations import SMALL, arrived, no_lane_was_lost, nobody_else_was_let_in
from tunnel.bench.lab.daemons import CONFIG
from tunnel.bench.lab.host import LabHost
from tunnel.bench.lab.host_plan import PORT
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.slow]

README = (Path(__file__).parents[3] / "README.md").read_text()
SWAPPED = {
    "hosta": "hostb",
    "hostb": "hosta",
    "192.0.2.2": "192.0.2.1",
    "127.0.1.2": "127.0.1.3",
}
"""The substitutions for hostb in README."""

# The table name of Debian's /etc/nftables.conf, with a drop policy.
USUAL_FIREWALL = """
table inet filter {
  chain input {
    type filter hook input priority filter; policy drop;
    iif lo accept
    ct state established,related accept
  }
}
"""


def blocks(title: str) -> list[str]:
    """Return the indented blocks of a section."""
    section = README.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [
        dedent(block).strip()
        for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", section, flags=re.MULTILINE)
    ]


INSTALL, CERTIFICATES, FIREWALL, DAEMONS = blocks("Two real hosts")
(VIRSH,) = blocks("With libvirt")
(MONITOR,) = blocks("Without libvirt")
(CONFIGURATION,) = re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)


def on(host: LabHost, text: str) -> str:
    """Return README's text for hosta, adapted to ``host``."""
    if host.name == "hosta":
        return text
    return re.sub("|".join(map(re.escape, SWAPPED)), lambda found: SWAPPED[found[0]], text)


def with_commands(*directories: Path) -> Mapping[str, str]:
    """Return an environment in which ``mtunnel`` is this checkout's, as after README's installation."""
    path = ":".join(map(str, [*directories, Path(sys.executable).parent, "/usr/sbin", "/usr/bin", "/bin"]))
    return {"PATH": path}


@pytest.fixture
def keys_on_hosts(lab: Lab, tmp_path: Path) -> None:
    """README's step 2: create keys, and copy them with a fake scp that maps addresses to lab hosts."""
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir()
    cases = "".join(
        f"root@{host.plan.address}:/etc/*) to={host.plan.outside('/etc')}/${{to#*:/etc/}} ;;\n"
        for host in lab.hosts
    )
    scp = bin_directory / "scp"
    scp.write_text(
        f"#!/bin/sh -e\nfor to; do :; done\ncase $to in\n{cases}*) exit 1 ;;\nesac\n"
        'while [ $# -gt 1 ]; do cp "$1" "$to"; shift; done\n'
    )
    scp.chmod(0o755)
    environment = {**with_commands(bin_directory)}
    subprocess.run(["sh", "-e", "-c", CERTIFICATES], cwd=tmp_path, env=environment, check=True, timeout=60)


@pytest.fixture
def linked(lab: Lab, keys_on_hosts: None) -> Lab:
    """Steps 3 to 5: two hosts behind typical firewalls, with linked daemons."""
    for host in lab.hosts:
        host.run(["nft", "-f", "-"], input=USUAL_FIREWALL)
    for host in lab.hosts:
        host.plan.outside(CONFIG).write_text(on(host, CONFIGURATION))
        check, serve, status = (line.split("#")[0].split() for line in DAEMONS.splitlines())
        assert "is valid" in host.run(check, env=with_commands()).stdout
        assert serve == ["mtunnel", "serve"]
        host.start_daemon(on(host, CONFIGURATION))
    assert not reaches(lab.a, lab.b.plan.address, PORT)
    for host in lab.hosts:
        host.run(["sh", "-e", "-c", on(host, FIREWALL)])
    for host in lab.hosts:
        host.daemons[-1].wait_linked(host.peer.name)
        assert f"link {host.peer.name}: up" in host.run(status, env=with_commands()).stdout
    return lab


def test_a_guest_of_libvirts_arrives(linked: Lab) -> None:
    guest = linked.start_guest()
    linked.a.run(["sh", "-e", "-c", VIRSH])
    arrived(linked, guest)


def test_a_guest_without_libvirt_arrives(linked: Lab) -> None:
    linked.b.libvirtd.stop()  # which would be queried for the guest
    guest = BareGuest("web1", linked.shared, memory=SMALL)
    linked.guests[guest.name] = guest
    guest.start(linked.a)
    (incoming,) = re.findall(r"`-incoming (\S+)`", README)
    guest.wait_at(linked.b, incoming)
    *lines, question = MONITOR.splitlines()
    assert not any(guest.type_in(linked.a, line) for line in lines)
    until(lambda: "completed" in guest.type_in(linked.a, question), "for info migrate to report completed")
    assert guest.status(linked.a) == "postmigrate"
    guest.verify(linked.b)
    no_lane_was_lost(linked)
    nobody_else_was_let_in(linked)


@pytest.mark.parametrize("command", ["mtunnel migrate web1 hostb", "mtunnel uri hostb web1"])
def test_its_other_commands_work_there(linked: Lab, command: str) -> None:
    assert f"`{command}`" in README.replace("\n", " ")
    guest = linked.start_guest()
    printed = linked.a.run(command.split(), env=with_commands(), timeout=120).stdout
    if "uri" in command:
        (virsh,) = (line for line in VIRSH.splitlines() if line.startswith("virsh"))
        assert virsh.split("--migrateuri")[1] in printed
    else:
        arrived(linked, guest)
