"""iperf3 through its library: our client and server processes, its figures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunnel.bench.measure import iperf
from tunnel.bench.measure.endpoint import free_tcp
from tunnel.bench.measure.measurement import Case
from tunnel.bench.measure.program import BenchError
from tunnel.bench.measure.rig import Rig, Source
from tunnel.units import MIB


@pytest.fixture
def rig(tmp: Path) -> Iterator[Rig]:
    with Rig(tmp) as started:
        yield started


# With 64 streams the result exceeds the default size of a pipe.
@pytest.mark.parametrize("streams", [1, 64])
def test_the_given_number_of_bytes_is_sent(rig: Rig, streams: int) -> None:
    found = iperf.measure(rig, free_tcp("127.0.0.1"), 2, Case("tcp", streams), 64 * MIB)
    assert (found.contestant, found.round, found.case) == ("iperf3", 2, Case("tcp", streams))
    assert 0 < found.bytes <= (64 + streams) * MIB  # each stream ends with its own block
    assert 0 < found.seconds < 60
    assert found.cpu_seconds.keys() == found.rss_peak.keys() == {"source", "sink"}
    assert not found.is_relay


def test_an_error_of_the_library_is_in_the_reply(rig: Rig) -> None:
    command = [sys.executable, "-m", "tunnel.bench.measure.iperf", "client", str(free_tcp("127.0.0.1"))]
    client = Source(rig.start("source", command, talks=True))
    assert client.hear(timeout=20) == {"ready": 1}
    client.say({})
    assert "Connection refused" in str(client.hear(timeout=20)["error"])


def test_a_test_that_failed_is_an_error(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Source, "hear", lambda source, timeout: {"error": "the server is busy"})
    with pytest.raises(BenchError, match="iperf3: the server is busy"):
        iperf.measure(rig, free_tcp("127.0.0.1"), 1, Case("tcp", 1), MIB)
