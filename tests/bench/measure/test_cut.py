"""A lane is cut by RST, and the time until it is replaced is measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemons import TwoHosts
from tests.support.streams import Target
from tunnel.bench.measure import cut as cuts
from tunnel.bench.measure.cut import cut, link
from tunnel.bench.measure.program import BenchError


@pytest.fixture
def hosts(tmp: Path) -> Iterator[TwoHosts]:
    with Target() as target, TwoHosts(tmp) as two:
        two.a.leads_to(two.b, target.address)
        two.start()
        yield two


@pytest.mark.root
def test_a_cut_lane_is_replaced(hosts: TwoHosts) -> None:
    for count in (1, 2):
        assert cut(hosts.a.control, "hostb") > 0
        assert link(hosts.a.control, "hostb")["resumes"] == count
    assert hosts.b.link(hosts.a)["resumes"] == 2


@pytest.mark.root
def test_a_lane_that_is_not_replaced_is_an_error(hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts, "_PATIENCE", 0.5)
    hosts.b.kill()
    with pytest.raises(BenchError):
        cut(hosts.a.control, "hostb")


def test_a_daemon_that_does_not_reply_is_an_error(tmp: Path) -> None:
    with pytest.raises(BenchError):
        link(tmp / "none", "hostb")
