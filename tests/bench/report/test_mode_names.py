"""Every mode has a name for readers."""

from __future__ import annotations

from tunnel.bench.measure.migration_modes import MODES, ON_REQUEST
from tunnel.bench.report.mode_names import encrypts, is_ours, label


def test_every_mode_has_its_own_name() -> None:
    names = [mode.name for mode in (*MODES, *ON_REQUEST)]
    assert not [name for name in names if label(name) == name]
    assert len({label(name) for name in names}) == len(names)
    assert label("rocket") == "rocket"


def test_modes_are_sorted_into_ours_and_those_that_encrypt() -> None:
    assert [is_ours(name) for name in ("mtunnel", "mtunnel-multifd-4", "multifd-4")] == [True, True, False]
    assert [encrypts(name) for name in ("native", "native-tls", "mtunnel")] == [False, True, True]
