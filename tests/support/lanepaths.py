"""Drives the lane paths that are measured (``tunnel/lanes/lane_paths.py``)."""

from __future__ import annotations

from contextlib import suppress

from tunnel.lanes.lane_paths import LanePath
from tunnel.units import MIB

PATIENCE = 20.0


def carried(path: LanePath, payload: bytes) -> None:
    """Check that ``payload`` passes over ``path`` unchanged."""
    got, written = b"", 0
    try:
        while len(got) < len(payload):
            with suppress(BlockingIOError):
                written += path.source.send(payload[written : written + MIB])
            moved = path.send()
            moved = path.receive() or moved
            with suppress(BlockingIOError):
                got += path.sink.recv(MIB)
            assert moved or path.wait(PATIENCE), f"timed out after {len(got)} bytes"
        assert got == payload
        assert path.taken == path.delivered == len(payload)
    finally:
        path.close()
