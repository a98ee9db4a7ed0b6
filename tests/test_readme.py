"""README.md stays short, shows only commands and links that exist, and its configuration is valid."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tunnel.cli.main import SUBCOMMANDS
from tunnel.daemon.config import load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
WAYS = (ROOT / "docs" / "libvirt.md").read_text().split("\n## Ways to migrate\n")[1].split("\n## ")[0]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "tunnel" / "wire" / "SPEC.md"]


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


def test_every_command_that_it_types_exists() -> None:
    typed = set(re.findall(r"(?:^    |`|/)mtunnel\s(\w+)", README, flags=re.MULTILINE))
    assert {"serve", "migrate", "uri"} <= typed
    assert typed <= set(SUBCOMMANDS)


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\(([^)#:\s]+)(?:#([^)]+))?\)", text)
    assert not [link for link, _ in links if not (page.parent / link).exists()]
    inside = [(page, anchor) for anchor in re.findall(r"\]\(#([^)]+)\)", text)]
    inside += [(page.parent / link, anchor) for link, anchor in links if anchor]
    assert not [(str(target), anchor) for target, anchor in inside if anchor not in anchors(target)]


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"], ids=lambda page: page.name
)
def test_no_page_has_marks_of_a_merge(page: Path) -> None:
    assert not re.search(r"^(<{7}|>{7}) ", page.read_text(), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The names that a web view of Markdown gives the headings of ``page``."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_no_way_to_migrate_is_shown_that_no_test_goes() -> None:
    shown = set(re.findall(r" (--[a-z][a-z0-9-]+)", WAYS))
    assert {"--p2p", "--postcopy", "--parallel"} <= shown
    tests = "".join(path.read_text() for path in (ROOT / "tests/e2e").rglob("test_*.py"))
    assert not [option for option in shown if f'"{option}' not in tests]
