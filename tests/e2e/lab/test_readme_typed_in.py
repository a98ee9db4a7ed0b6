"""README's section on libvirt, typed in as it stands, moves a guest."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support.migrations import arrived
from tunnel.bench.lab.host import Host
from tunnel.bench.lab.lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.slow]

README = (Path(__file__).parents[3] / "README.md").read_text()
SECTION = README.split("\n## With libvirt\n")[1].split("\n## ")[0]
BLOCKS = [dedent(block) for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", SECTION, flags=re.MULTILINE)]


def configuration(host: Host, basis: str) -> str:
    """What README has the administrator of ``host`` write: its first block, or the mirror image of that."""
    head = basis.split("[[peer]]", maxsplit=1)[0]
    block = BLOCKS[0]
    if host.name == "hostb":
        for there, here in (("hostb", "hosta"), ("192.0.2.2", "192.0.2.1"), ("127.0.1.2", "127.0.1.1")):
            block = block.replace(there, here)
    return head + block


def test_configuration_and_first_command_move_a_guest(lab: Lab) -> None:
    guest = lab.start_guest()
    configurations = re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)
    for host, basis in zip(lab.hosts, configurations, strict=True):
        host.start_daemon(configuration(host, basis))
    for host in lab.hosts:
        host.daemons[-1].wait_linked(host.peer.name)
    lab.a.run(["sh", "-e", "-c", BLOCKS[1]])
    arrived(lab, guest)
