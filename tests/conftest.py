"""What every test gets: uvloop, a short temporary path, and a check that no process outlives its test."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

from tests.support.daemons import WORKERS

LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
}
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
LAST_MOMENTS = 10.0
"""Seconds that a process which was told to end may take, on a busy machine."""
ROOT_TESTS = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many workers daemons have that tests start; without it one, and three where that matters most."""
    parser.addoption("--workers", type=int, metavar="N", help="workers of the daemons under test")


def pytest_configure(config: pytest.Config) -> None:
    """Let ctrl-C work in what tests start: a shell lets its background jobs, and theirs, ignore it."""
    if (workers := config.getoption("--workers")) is not None:
        os.environ[WORKERS] = str(workers)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.pluginmanager.hasplugin("hypothesispytest"):  # an emulated machine has no Hypothesis
        set_up_hypothesis()


def set_up_hypothesis() -> None:
    """The same examples in every run, a blob when one fails, and no limits of time: the machine is shared."""
    from hypothesis import HealthCheck, settings

    slow = [HealthCheck.too_slow]
    settings.register_profile(
        "repeatable", deadline=None, derandomize=True, print_blob=True, suppress_health_check=slow
    )
    settings.load_profile("repeatable")


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, object]:
    """Run async tests on uvloop, as the daemon does.

    ``@pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])`` runs one on each of the named loops.
    """
    marker = item.get_closest_marker("asyncio")
    asked = marker.kwargs.get("loop_factories") if marker else None
    return {name: LOOPS[name] for name in asked or ["uvloop"]}


@pytest.hookimpl(trylast=True)  # after -m, so that only those are counted that would have run
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    rooted = [item for item in items if item.get_closest_marker("root")]
    config.stash[ROOT_TESTS] = len(rooted)
    if hasattr(config, "workeroutput"):  # a worker of xdist collects for somebody else's summary
        config.workeroutput["root tests"] = len(rooted)
    config.hook.pytest_deselected(items=rooted)
    items[:] = [item for item in items if item not in rooted]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what a worker of xdist left out; each of them collects everything."""
    output: Mapping[str, int] = getattr(node, "workeroutput", {})
    node.config.stash[ROOT_TESTS] = output.get("root tests", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if count := config.stash.get(ROOT_TESTS, 0):
        terminalreporter.write_line(
            f"NOT RUN: {count} tests that need root; run this as root to run them", yellow=True
        )


@pytest.fixture
def tmp() -> Iterator[Path]:
    """A directory with a short path: ``tmp_path`` leaves little of the 107 bytes of a unix socket's."""
    with tempfile.TemporaryDirectory(prefix="mt-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture(scope="session", autouse=True)
def no_process_left_by_session() -> Iterator[None]:
    """Adopt orphans, so that a grandchild cannot hide, and fail when a shared fixture leaves a process."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    yield from _no_process_left()


@pytest.fixture(autouse=True)
def no_process_left(no_process_left_by_session: None) -> Iterator[None]:
    """Fail the test when a process that it started, directly or not, is still there at its end."""
    yield from _no_process_left()


def _no_process_left() -> Iterator[None]:
    before = _children()
    yield
    # Whoever ended a process properly may still be a moment ahead of the kernel.
    deadline = time.monotonic() + LAST_MOMENTS
    while (
        left := [child for child in _children() - before if not _ended(child)]
    ) and time.monotonic() < deadline:
        time.sleep(0.02)
    if left:
        pytest.fail(f"left running: {', '.join(_kill(process) for process in left)}")


def _children() -> set[psutil.Process]:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return set()  # the usual case, and much cheaper than looking through /proc
    return set(psutil.Process().children())


def _ended(child: psutil.Process) -> bool:
    """Whether it has ended. An orphan that we adopted has nobody else to collect it, so that is done here."""
    try:
        return os.waitpid(child.pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True


def _kill(process: psutil.Process) -> str:
    command = " ".join(process.cmdline()) or process.name()
    process.kill()
    process.wait()
    return f"{process.pid} ({command})"
