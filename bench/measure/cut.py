"""Cut the lane of a link by RST on both hosts, and measure the time until it is replaced (root)."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tunnel.bench.measure.program import BenchError
from tunnel.daemon.control_socket import LinkStatus
from tunnel.errors import TunnelError
from tunnel.proof import local_daemon

_PATIENCE = 60.0  # seconds
_STEP = 0.005


def link(control: Path, peer: str) -> LinkStatus:
    """Return the daemon's status of its link with ``peer``. Raises BenchError."""
    try:
        return local_daemon.link(control, peer)
    except TunnelError as error:
        raise BenchError(str(error)) from error


def cut(control: Path, peer: str) -> float:
    """Cut the first lane; return the seconds until the host that dialled it reports a replacement.

    The kernel closes both sockets as if a router had sent RST to both (``ss -K``), without a proxy in between
    that would slow them down. Raises BenchError when no lane is cut, or it is not replaced.
    """
    before = link(control, peer)
    if not before["lanes"]:
        raise BenchError("no lane to cut")
    host, _, port = before["lanes"][0]["local"].rpartition(":")
    began = time.monotonic()
    command = ["ss", "-K", "-H", "-t", "state", "established", "src", host, "sport", "=", f":{port}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    if port not in done.stdout:
        raise BenchError(f"no lane was cut: {done.stderr.strip() or 'ss found no such connection'}")
    while (now := link(control, peer))["resumes"] == before["resumes"] or not now["lanes"]:
        if time.monotonic() - began > _PATIENCE:
            raise BenchError(f"the lane was not replaced: the link is {now['state']}")
        time.sleep(_STEP)
    return time.monotonic() - began
