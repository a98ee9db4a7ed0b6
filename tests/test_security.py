"""SECURITY.md and docs/reliability.md name tests that exist, and no secret gets into a log."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.daemons import TwoHosts

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "SECURITY.md", ROOT / "docs" / "reliability.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_they_name_exists(page: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", page.read_text())
    assert len(named) > 10
    assert not [path for path in named if not (ROOT / path).is_file()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_row_says_what_shows_it(page: Path) -> None:
    """All but one, which says that nothing does."""
    rows = re.findall(r"^\| (?!who,|fault|---).*\|$", page.read_text(), re.MULTILINE)
    without = [row for row in rows if "`tests/" not in row]
    assert len(rows) > 10
    assert all("nothing:" in row for row in without), without


def test_no_log_has_a_key(tmp: Path) -> None:
    """With everything logged, at a start and a link: neither host's private key nor any block of PEM."""
    with TwoHosts(tmp) as hosts:
        hosts.a.leads_to(hosts.b, "tcp:127.0.0.1:1")
        for host, _ in hosts.both_ways:
            host.start("--log-level", "debug")
        hosts.wait_up()
        keys = [path.read_text() for path in tmp.rglob("*.key")]
        assert len(keys) >= 2
        lines = {line for key in keys for line in key.splitlines() if len(line) > 40}
        for host, _ in hosts.both_ways:
            assert host.log
            assert "PRIVATE KEY" not in host.log
            assert not [line for line in lines if line in host.log]
