"""What README.md tells a new operator to type exists, and the configurations that it shows are valid."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tunnel.cli.main import SUBCOMMANDS
from tunnel.daemon.config import load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONFIGS = re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)


def test_it_opens_with_two_commands_and_they_are_verbs_of_run() -> None:
    verbs = re.findall(r"^    \./run (\w+)", README, flags=re.MULTILINE)
    assert verbs == ["demo", "test"]
    usage = subprocess.run(
        [ROOT / "run", "help"], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    assert all(f"\n  {verb} " in usage for verb in verbs)


def test_the_table_has_every_command_and_no_other() -> None:
    assert re.findall(r"^\| `mtunnel (\w+)`", README, flags=re.MULTILINE) == list(SUBCOMMANDS)


def test_every_command_that_it_types_exists() -> None:
    typed = set(re.findall(r"^    mtunnel (\w+)", README, flags=re.MULTILINE))
    assert typed
    assert typed <= set(SUBCOMMANDS)


@pytest.mark.parametrize("text", CONFIGS)
def test_its_configurations_are_valid(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mtunnel.toml"
    file.write_text(text)
    assert load(file).ingresses


def test_its_two_hosts_agree_with_each_other(tmp_path: Path) -> None:
    files = [tmp_path / f"{index}.toml" for index in range(2)]
    for file, text in zip(files, CONFIGS, strict=True):
        file.write_text(text)
    here, there = map(load, files)
    assert [peer.name for peer in here.peers] == [there.host.name]
    assert [peer.name for peer in there.peers] == [here.host.name]


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_no_way_to_migrate_is_shown_that_no_test_goes() -> None:
    shown = set(re.findall(r" (--[a-z][a-z0-9-]+)", README.split("\n## With libvirt\n")[1].split("\n## ")[0]))
    assert "--p2p" in shown
    tests = "".join(path.read_text() for path in (ROOT / "tests/e2e").rglob("test_*.py"))
    assert not [option for option in shown if f'"{option}' not in tests]
