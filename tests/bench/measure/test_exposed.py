"""The setup of ``bench abuse`` is a configuration that both daemons accept."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tunnel.bench.measure.exposed import expose
from tunnel.bench.measure.netns import effective_congestion
from tunnel.daemon.config import load
from tunnel.units import parse_size


@pytest.mark.parametrize("memory", [("", ""), ("64MiB", "1GiB")])
def test_both_configurations_are_valid(tmp: Path, memory: tuple[str, str]) -> None:
    exposed = expose(tmp, effective_congestion())
    sides = exposed.sides(memory)
    a, b = (load(Path(command[-1])) for command in (sides.a, sides.b))
    assert len(a.ingresses) == 6
    assert [peer.name for peer in b.peers] == ["hosta", "hostc"]
    for config, size in zip((a, b), memory, strict=True):
        assert config.transport.memory == (parse_size(size) if size else 256 << 20)


def test_other_users_reach_the_sockets_and_no_key(tmp: Path) -> None:
    exposed = expose(tmp, effective_congestion())
    assert stat.S_IMODE(tmp.stat().st_mode) == 0o711
    for pair in (exposed.pair_c, exposed.site.pair_a, exposed.site.pair_b):
        assert stat.S_IMODE(pair.key.stat().st_mode) == 0o600
