"""The setup of one measurement: new addresses and certificates, private files."""

from __future__ import annotations

import stat
from pathlib import Path

from tunnel.bench.measure.site import lay_out


def test_hosts_and_local_sides_have_separate_addresses(tmp: Path) -> None:
    site = lay_out(tmp, "cubic")
    assert [end.host for end in (site.entry, site.link, site.exit)] == ["127.0.0.2", "127.0.0.3", "127.0.0.1"]


def test_unix_legs_leave_the_link_on_tcp(tmp: Path) -> None:
    site = lay_out(tmp, "cubic", unix_legs=True)
    assert [end.is_unix for end in (site.entry, site.link, site.exit)] == [True, False, True]


def test_both_hosts_have_certificates(tmp: Path) -> None:
    site = lay_out(tmp, "cubic")
    for path in (site.ca, site.pair_a.cert, site.pair_a.key, site.pair_b.cert, site.pair_b.key):
        assert path.read_text().startswith("-----BEGIN")


def test_a_configuration_may_hold_a_key_so_its_mode_is_0600(tmp: Path) -> None:
    path = lay_out(tmp, "cubic").write("a.cfg", "secret")
    assert path.read_text() == "secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
