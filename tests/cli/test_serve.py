"""``mtunnel serve``: startup before the service runs, and the arguments of the service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import structlog
import uvloop

from tests.support.configs import HOST, PEER, TLS, write_config
from tests.support.pki import Pki
from tunnel.cli import serve as module
from tunnel.cli.main import main
from tunnel.daemon import preflight as preflights
from tunnel.daemon.config import Config
from tunnel.engine.binding import Provider
from tunnel.engine.choice import Choice
from tunnel.errors import UsageError
from tunnel.proof.free_port import free_port
from tunnel.records.key_schedule import SUITES
from tunnel.tls.contexts import TlsContexts
from tunnel.tls.lane_kinds import KernelTlsSupport, LaneCosts


class FakeService:
    """Records its arguments, and that it ran on uvloop."""

    ran: tuple[str, tuple[str, ...], bool]
    engine: Choice
    error: Exception | None

    def __init__(self, config: Config, contexts: TlsContexts, engine: Choice) -> None:
        self._facts = config.host.name, contexts.names
        FakeService.engine = engine

    async def run(self) -> None:
        FakeService.ran = (*self._facts, isinstance(asyncio.get_running_loop(), uvloop.Loop))
        structlog.get_logger().info("running")
        structlog.get_logger().debug("in detail")
        if FakeService.error:
            raise FakeService.error


given_up: list[str] = []
"""The privileges that the daemon would have dropped; in the test process that would be permanent."""

settled: list[str] = []


def confine(config: Config, source: Path) -> str:
    given_up.append(f"{config.host.name} {source.name}")
    return "the least"


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace the service with the fake; restore logging afterwards."""
    FakeService.error = None
    FakeService.ran = ("nobody", (), False)
    monkeypatch.setattr(module, "Service", FakeService)
    monkeypatch.setattr(module, "forbid_core_dumps", lambda: given_up.append("cores"))
    monkeypatch.setattr(module, "tune_collector", lambda: settled.append("collector"))
    monkeypatch.setattr(module, "confine", confine)
    given_up.clear()
    settled.clear()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []  # otherwise pytest's handlers would be closed
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def config(tmp: Path) -> Path:
    """A valid configuration of hosta."""
    Pki(tmp).host("hosta")
    return write_config(tmp, HOST.replace("16515", str(free_port("127.0.0.1"))), TLS, PEER)


def serve(path: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--config", str(path), *options])
    return int(caught.value.code or 0)


def test_service_runs_on_uvloop_with_the_checked_configuration(config: Path) -> None:
    assert serve(config) == 0
    assert FakeService.ran == ("hosta", ("hosta",), True)


def test_log_goes_to_stderr_at_level_info(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert serve(config) == 0
    output = capfd.readouterr()
    assert output.out == ""
    assert "event=running" in output.err
    assert "in detail" not in output.err


def test_log_level_and_format_are_options(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert serve(config, "--log-level", "debug", "--log-format", "json") == 0
    assert '"event": "in detail"' in capfd.readouterr().err


def test_lanes_are_measured_with_the_engine_before_confinement(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def measure(suite: str, provider: object) -> LaneCosts:
        asked.append(provider)
        assert given_up == ["cores"]
        assert FakeService.ran[0] == "nobody"
        return LaneCosts(0.6, 0.7)

    engine = Choice(cast("Provider", object()), "an engine")
    monkeypatch.setattr(module, "choose", lambda: engine)
    monkeypatch.setattr(
        preflights, "run_selftest", lambda files: KernelTlsSupport(tuple(SUITES), "it passed")
    )
    monkeypatch.setattr(preflights, "measure", measure)
    assert serve(config) == 0
    assert asked == [engine.provider]
    assert FakeService.ran[0] == "hosta"


def test_privileges_are_dropped(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert serve(config) == 0
    assert given_up == ["cores", "hosta mtunnel.toml"]
    assert 'event=confined to="the least"' in capfd.readouterr().err


def test_confinement_can_be_disabled(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config.write_text(config.read_text().replace("[host]\n", "[host]\nconfine = false\n"))
    assert serve(config) == 0
    assert given_up == ["cores"]
    assert 'event=confined to="off, as configured"' in capfd.readouterr().err


def test_malloc_and_collector_are_tuned(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "tune_malloc", lambda: settled.append("heap"))
    assert serve(config) == 0
    assert settled == ["heap", "collector"]


def test_the_engine_is_the_requested_one(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTUNNEL_ENGINE", "python")
    assert serve(config) == 0
    assert FakeService.engine == Choice(None, "Python (set by MTUNNEL_ENGINE)")


def test_an_invalid_engine_is_2(
    config: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MTUNNEL_ENGINE", "pyhton")
    assert serve(config) == 2
    assert "invalid MTUNNEL_ENGINE='pyhton': set it to 'python', or unset it" in capfd.readouterr().err
    assert FakeService.ran[0] == "nobody"


def test_errors_are_2_and_nothing_runs(tmp: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert serve(write_config(tmp, HOST, TLS)) == 2
    assert capfd.readouterr().err.splitlines()[1].startswith("  tls.ca: ")
    assert FakeService.ran[0] == "nobody"


def test_address_lost_after_the_check_is_2(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    FakeService.error = UsageError("cannot listen on 127.0.0.1")
    assert serve(config) == 2
    assert capfd.readouterr().err.endswith("error: cannot listen on 127.0.0.1\n")
