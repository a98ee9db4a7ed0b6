"""Each option maps to QEMU's capabilities and parameters, and nothing else."""

from __future__ import annotations

import dataclasses

import pytest

from tunnel.units import MIB
from tunnel.virt.move_options import DEFAULTS
from tunnel.virt.qmp_request import capabilities, parameters


def test_default_is_one_plain_stream_without_a_limit() -> None:
    assert {name for name, on in capabilities(DEFAULTS).items() if on} == {"events", "return-path"}
    found = parameters(DEFAULTS)
    assert found["downtime-limit"] == 300
    assert found["max-bandwidth"] == found["max-postcopy-bandwidth"]
    assert "multifd-channels" not in found


@pytest.mark.parametrize(
    ("change", "added", "removed"),
    [
        ({"parallel": 4}, {"multifd"}, set()),
        ({"postcopy": True}, {"postcopy-ram"}, set()),
        ({"postcopy": True, "postcopy_preempt": True}, {"postcopy-ram", "postcopy-preempt"}, set()),
        ({"auto_converge": True}, {"auto-converge"}, set()),
        ({"return_path": False}, set(), {"return-path"}),
    ],
)
def test_options_are_capabilities(change: dict[str, object], added: set[str], removed: set[str]) -> None:
    changed = dataclasses.replace(DEFAULTS, **change)  # type: ignore[arg-type]  # one field of each kind
    on = {name for name, on in capabilities(changed).items() if on}
    assert on == ({"events", "return-path"} | added) - removed


def test_a_separate_channel_may_be_left_open() -> None:
    assert "postcopy-preempt" not in capabilities(dataclasses.replace(DEFAULTS, postcopy_preempt=None))


def test_figures_are_parameters() -> None:
    found = parameters(dataclasses.replace(DEFAULTS, parallel=4, bandwidth=MIB, downtime_limit=0.001))
    assert found == {
        "max-bandwidth": MIB,
        "max-postcopy-bandwidth": MIB,
        "downtime-limit": 1,
        "multifd-channels": 4,
    }
