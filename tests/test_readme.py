"""README.md stays short, lists every command, and its configuration is valid."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tunnel.cli.main import SUBCOMMANDS
from tunnel.daemon.config import load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_it_is_short() -> None:
    assert README.count("\n") <= 150


def test_it_opens_with_two_commands_and_they_are_verbs_of_run() -> None:
    verbs = re.findall(r"^    \./run (\w+)", README, flags=re.MULTILINE)
    assert verbs == ["demo", "test"]
    usage = subprocess.run(
        [ROOT / "run", "help"], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    assert all(f"\n  {verb} " in usage for verb in verbs)


def test_the_table_has_every_command_and_no_other() -> None:
    assert re.findall(r"^\| `mtunnel (\w+)`", README, flags=re.MULTILINE) == list(SUBCOMMANDS)


def test_its_configuration_is_valid_on_both_hosts(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)
    names = {"hosta": "hostb", "hostb": "hosta"}
    other = re.sub("hosta|hostb", lambda found: names[found[0]], text)
    files = [tmp_path / "a.toml", tmp_path / "b.toml"]
    for file, content in zip(files, (text, other), strict=True):
        file.write_text(content)
    here, there = map(load, files)
    assert [peer.name for peer in here.peers] == [there.host.name]
    assert [peer.name for peer in there.peers] == [here.host.name]
    targets = [ingress.target for ingress in here.ingresses if ingress.target]
    assert targets
    assert all(there.peers[0].egress.allows(target) for target in targets)
