"""Measuring the cost of both kinds of lane: alternately, within bounds, and with errors."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable
from typing import cast

import pytest

from tunnel.engine.binding import Provider
from tunnel.errors import LaneError
from tunnel.lanes import kernel_tls, lane_meter
from tunnel.lanes.lane_meter import LEAST, ROUND, ROUNDS, LaneMeter, measure
from tunnel.lanes.lane_paths import FRAME, KernelPath, LanePath, UserspacePath
from tunnel.records.key_schedule import SUITES, Keys
from tunnel.units import MIB

SUITE = next(iter(SUITES))
TURN = 1024 // (ROUND // MIB)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use plain sockets for kernel lanes."""
    monkeypatch.setattr(kernel_tls, "enable", lambda sock, keys: None)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the time limit, for a busy machine."""
    monkeypatch.setattr(lane_meter, "PATIENCE", 60.0)


class Counted(UserspacePath):
    """Counts calls."""

    def __init__(self) -> None:
        super().__init__(SUITE)
        self.calls = 0
        self.closed = False

    def send(self) -> bool:
        self.calls += 1
        return super().send()

    def close(self) -> None:
        self.closed = True
        super().close()


class Broken(Counted):
    """Fails at the second call."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def receive(self) -> bool:
        if self.calls > 1:
            raise self._error
        return super().receive()


class Stuck(Counted):
    """Sends bytes that never arrive."""

    def receive(self) -> bool:
        return False

    def wait(self, patience: float) -> bool:
        return False


def ticking(*seconds: float) -> Callable[[], float]:
    """Return a CPU clock by which each iteration of both ends takes the next of ``seconds``, cyclically."""
    now, steps = 0.0, itertools.chain.from_iterable((0.0, step) for step in itertools.cycle(seconds))

    def look() -> float:
        nonlocal now
        now += next(steps)
        return now

    return look


@pytest.mark.usefixtures("patient")
def test_both_kinds_are_measured_completely() -> None:
    costs = measure(SUITE, None)
    assert isinstance(costs.kernel, float)
    assert isinstance(costs.userspace, float)
    assert min(costs.kernel, costs.userspace) > 0


@pytest.mark.usefixtures("patient")
def test_kinds_alternate_so_that_a_slow_moment_affects_both(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []
    carry = LaneMeter._carry

    def noted(self: LaneMeter, path: LanePath, begin: float, patience: float) -> tuple[int, float]:
        turns.append(path.kind)
        return carry(self, path, begin, patience)

    monkeypatch.setattr(LaneMeter, "_carry", noted)
    measure(SUITE, None)
    assert turns == ["kernel", "userspace"] * ROUNDS
    assert ROUND * ROUNDS == 64 * MIB


@pytest.mark.usefixtures("patient")
def test_the_cost_is_cpu_time_per_byte_of_both_ends_only() -> None:
    paths: list[Counted] = []

    def make() -> Counted:
        paths.append(Counted())
        return paths[0]

    meter = LaneMeter(make, ticking(0.001))
    meter.turn()
    meter.close()
    assert meter.cost == pytest.approx(0.001 * paths[0].calls * TURN)


@pytest.mark.usefixtures("patient")
def test_the_median_of_all_rounds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = iter([(ROUND, 0.005), (ROUND, 0.001), (ROUND, 0.9)])
    monkeypatch.setattr(LaneMeter, "_carry", lambda *_: next(rounds))
    meter = LaneMeter(Counted)
    for _ in range(3):
        meter.turn()
    meter.close()
    assert meter.cost == pytest.approx(0.005 * TURN)


def test_a_kind_that_used_up_its_time_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def carry(self: LaneMeter, path: LanePath, begin: float, patience: float) -> tuple[int, float]:
        asked.append(patience)
        monkeypatch.setattr(lane_meter, "PATIENCE", 0.0)
        return LEAST, 0.001

    monkeypatch.setattr(LaneMeter, "_carry", carry)
    meter = LaneMeter(Counted)
    meter.turn()
    meter.turn()
    meter.close()
    assert len(asked) == 1
    assert asked[0] <= 0.25
    assert meter.cost == pytest.approx(0.001 * 1024)


def test_a_round_that_carried_too_little_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LaneMeter, "_carry", lambda *_: (300 << 10, 0.3))
    meter = LaneMeter(Counted)
    meter.turn()
    meter.close()
    assert meter.cost == "only 300 KiB transferred in 0.25 s"


def test_without_time_nothing_is_measured_and_the_daemon_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_meter, "PATIENCE", 0.0)
    costs = measure(SUITE, None)
    assert costs.kernel == costs.userspace == "only 0 KiB transferred in 0 s"
    assert not costs.kernel_wins


def test_at_the_deadline_bytes_in_flight_arrive_and_no_more_are_sent() -> None:
    clock = itertools.count(0.0, 0.08)
    path = Counted()
    meter = LaneMeter(lambda: path, clock=lambda: next(clock))
    meter.turn()
    assert meter.cost == f"only {path.taken >> 10} KiB transferred in 0.25 s"
    assert 0 < path.taken == path.delivered <= 4 * FRAME
    meter.turn()
    meter.close()
    assert path.taken == path.delivered <= 4 * FRAME


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LaneError("kernel TLS is not available"), "kernel TLS is not available"),
        (BrokenPipeError(32, "whatever"), "Broken pipe"),
    ],
)
def test_an_error_is_the_cost(error: Exception, words: str) -> None:
    path = Broken(error)
    meter = LaneMeter(lambda: path)
    meter.turn()
    assert path.closed
    meter.turn()
    meter.close()
    assert meter.cost == words


def test_bytes_that_never_arrive_time_out() -> None:
    clock = itertools.count(0.0, 0.1)
    path = Stuck()
    meter = LaneMeter(lambda: path, clock=lambda: next(clock))
    meter.turn()
    assert meter.cost == "timed out after 1 s waiting for bytes in flight"
    assert path.closed


@pytest.mark.usefixtures("patient")
def test_an_unsupported_kind_does_not_affect_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(sock: socket.socket, keys: Keys) -> None:
        raise LaneError("kernel TLS does not support it")

    monkeypatch.setattr(kernel_tls, "enable", refuse)
    costs = measure(SUITE, None)
    assert costs.kernel == "kernel TLS does not support it"
    assert isinstance(costs.userspace, float)


@pytest.mark.usefixtures("patient")
def test_each_kind_is_measured_with_the_suite_and_engine_of_its_lanes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[tuple[str, object]] = []

    def userspace(suite: str, provider: object) -> LanePath:
        made.append((suite, provider))
        return UserspacePath(suite)

    def kernel(suite: str) -> LanePath:
        made.append((suite, "kernel"))
        return KernelPath(suite)

    monkeypatch.setattr(lane_meter, "UserspacePath", userspace)
    monkeypatch.setattr(lane_meter, "KernelPath", kernel)
    engine = cast("Provider", object())
    measure("TLS_AES_128_GCM_SHA256", engine)
    assert made == [("TLS_AES_128_GCM_SHA256", "kernel"), ("TLS_AES_256_GCM_SHA384", engine)]
