"""Starting a contestant: side b before side a, each listening before the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunnel.bench.measure.contestants import Contestant, choose
from tunnel.bench.measure.program import BenchError
from tunnel.bench.measure.relay_commands import Sides
from tunnel.bench.measure.rig import Rig
from tunnel.bench.measure.sides import start_sides
from tunnel.bench.measure.site import lay_out


def test_both_sides_listen_when_they_are_returned(tmp: Path) -> None:
    with Rig(tmp) as rig:
        site = lay_out(tmp, "cubic")
        sides = start_sides(rig, choose(["plain-relay"])[0], site)
        assert list(sides) == ["a", "b"]
        assert [program.name for program in rig.programs] == ["b", "a"]
        for endpoint in (site.entry, site.link):
            endpoint.connect().close()


def test_the_bare_connection_has_no_sides(tmp: Path) -> None:
    with Rig(tmp) as rig:
        assert start_sides(rig, choose(["direct"])[0], lay_out(tmp, "cubic")) == {}
        assert rig.programs == []


def test_a_side_that_exits_is_an_error_and_the_other_is_not_started(tmp: Path) -> None:
    broken = Contestant("broken", "none", str, lambda site: Sides(a=["true"], b=["sh", "-c", "exit 3"]))
    with Rig(tmp) as rig, pytest.raises(BenchError, match="b exited with status 3"):
        start_sides(rig, broken, lay_out(tmp, "cubic"))
    assert [program.name for program in rig.programs] == ["b"]
