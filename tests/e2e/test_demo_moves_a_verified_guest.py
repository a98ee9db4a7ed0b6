"""``mtunnel demo`` migrates a real guest through two real daemons, verifies it, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

SMALL = ("--accel", "tcg", "--memory", "64MiB", "--dirty-rate", "16MiB/s")
STEPS = ("accelerator", "daemons", "guest", "moved")  # its progress on stderr


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "tunnel.cli.main", "demo", *SMALL, *options]


def environment(directory: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(directory)}


@contextmanager
def running_demo(directory: Path, step: str) -> Iterator[subprocess.Popen[str]]:
    """A demo with a guest that takes some time to migrate, right after it has reached ``step``."""
    options = ("--memory", "256MiB")
    with subprocess.Popen(
        command(*options), env=environment(directory), stderr=subprocess.PIPE, text=True
    ) as demo:
        try:
            assert demo.stderr is not None
            while not (line := demo.stderr.readline()).startswith(step):
                assert line, "the demo ended early"
            yield demo
        finally:
            demo.kill()


@pytest.mark.slow
@pytest.mark.parametrize("channels", [254, 255])
def test_guest_is_moved_over_the_maximum_number_of_channels(tmp: Path, channels: int) -> None:
    options = ("--mode", "multifd", "--channels", str(channels), "--dirty-rate", "1MiB/s", "--json")
    done = subprocess.run(
        command(*options), env=environment(tmp), capture_output=True, text=True, timeout=110, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["verified"] is True


@pytest.mark.slow
@pytest.mark.parametrize("ingress", ["unix", "tcp"])
@pytest.mark.parametrize("mode", ["precopy", "multifd", "postcopy"])
def test_guest_is_moved_and_verified(tmp: Path, mode: str, ingress: str) -> None:
    done = subprocess.run(
        command("--mode", mode, "--ingress", ingress, "--channels", "3", "--json"),
        env=environment(tmp),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["verified"] is True
    assert report["pages"] * 4096 > 60 << 20
    assert report["transferred"] > 60 << 20
    assert (report["mode"], report["ingress"]) == (mode, ingress)
    assert report["channels"] == (3 if mode == "multifd" else 1)
    assert report["lane"]["kind"] in {"userspace", "kernel"}
    assert list(report["cpu"]) == ["hosta", "hostb", "source", "destination"]
    assert list(tmp.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 1)])
def test_interrupted_demo_leaves_nothing(tmp: Path, step: str, number: signal.Signals, code: int) -> None:
    with running_demo(tmp, step) as demo:
        demo.send_signal(number)
        demo.send_signal(number)  # a second one does not interrupt the cleanup
        _, words = demo.communicate(timeout=30)
    assert demo.returncode == code
    assert words.splitlines()[-1] == f"Stopped by {number.name}: all processes ended, all files removed"
    assert list(tmp.iterdir()) == []


@pytest.mark.slow
def test_killed_demo_leaves_no_process(tmp: Path) -> None:
    with running_demo(tmp, "guest") as demo:
        children = psutil.Process(demo.pid).children(recursive=True)
        assert len(children) == 4
        demo.kill()
        _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
