"""``mtunnel migrate``: its options, its exit codes, and usage errors."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.support.configs import HOST, INGRESS, PEER, TLS, write_config
from tunnel.cli.main import main
from tunnel.cli.migrate import command as module
from tunnel.cli.migrate.order import MigrateArguments
from tunnel.cli.migrate.output import Announcer, HumanOutput, JsonOutput
from tunnel.cli.migrate.run import MigrationRun
from tunnel.daemon.config import load
from tunnel.errors import ConfigError
from tunnel.units import MIB
from tunnel.virt.guest_location import Where
from tunnel.virt.move_options import Action, MoveOptions, Storage

Called = list[tuple[MigrateArguments, Announcer]]


@pytest.fixture
def config(tmp: Path) -> Path:
    return write_config(tmp, HOST, TLS, PEER, INGRESS)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Called:
    """The recorded calls of the command."""
    calls: Called = []
    monkeypatch.setattr(module, "_run", lambda order, announcer: calls.append((order, announcer)))
    return calls


def migrate(config: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["migrate", *arguments, "--config", str(config)])
    return int(caught.value.code or 0)


def test_defaults(config: Path, called: Called) -> None:
    assert migrate(config, "web1", "HOSTB") == 0
    ((order, announcer),) = called
    assert order == MigrateArguments(load(config), "web1", "hostb")
    assert isinstance(announcer, HumanOutput)


def test_every_option_for_libvirt_reaches_the_order(config: Path, called: Called) -> None:
    text = (
        "--direct --no-live --copy-storage inc --persist --undefine-source --bandwidth 100MiB/s "
        "--timeout 90s --timeout-action postcopy --postcopy --postcopy-resume --auto-converge "
        "--connect test:///a --desturi test:///b --tls-destination hostb.lab --via tcp:127.0.1.2:49160 --json"
    )
    assert migrate(config, "web1", "hostb", *text.split()) == 0
    ((order, announcer),) = called
    assert order == MigrateArguments(
        load(config),
        "web1",
        "hostb",
        MoveOptions(
            live=False,
            postcopy=True,
            bandwidth=100 * MIB,
            auto_converge=True,
            timeout=90.0,
            timeout_action=Action.POSTCOPY,
            p2p=False,
            postcopy_resume=True,
            copy_storage=Storage.INC,
            persist=True,
            undefine_source=True,
            tls_destination="hostb.lab",
        ),
        via="tcp:127.0.1.2:49160",
        connect="test:///a",
        desturi="test:///b",
    )
    assert isinstance(announcer, JsonOutput)


def test_every_option_for_qemu_reaches_the_order(config: Path, called: Called) -> None:
    options = ("--qmp", "/run/web1.qmp", "--dest-qmp", "/run/far.qmp", "--postcopy", "--postcopy-preempt")
    assert migrate(config, "hostb", *options) == 0
    assert migrate(config, "hostb", "--qmp", "/run/web1.qmp", "--no-return-path", "--parallel", "8") == 0
    first, second = (order for order, _ in called)
    assert (first.guest, first.qmp, first.dest_qmp) == (None, Path("/run/web1.qmp"), Path("/run/far.qmp"))
    assert first.options == MoveOptions(postcopy=True, postcopy_preempt=True)
    assert second.options == MoveOptions(return_path=False, parallel=8)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["hostb"], "name the guest and the peer"),
        (["a", "b", "c"], "expected GUEST PEER, got 3 names"),
        ([], "Missing argument"),
        (["web1", "hostb", "--timeout", "90"], "has no unit"),
        (["web1", "hostb", "--bandwidth", "fast"], "not a number with a unit"),
        (["web1", "hostb", "--copy-storage", "some"], "some"),
        (["web1", "hostb", "--parallel", "256"], "--parallel"),
        (["web1", "hostb", "--postcopy", "--parallel", "2"], "cannot be combined"),
    ],
)
def test_wrong_usage_is_2(
    config: Path, called: Called, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert migrate(config, *arguments) == 2
    assert complaint in " ".join(capsys.readouterr().err.split())
    assert called == []


def test_wrong_configuration_is_2(tmp: Path, called: Called, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp, HOST)
    with pytest.raises(ConfigError):
        load(path)
    assert migrate(path, "web1", "hostb") == 2
    assert "tls: is missing" in capsys.readouterr().err


def test_no_daemon_is_4_in_json_too(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert migrate(config, "web1", "hostb", "--desturi", "test:///default", "--json") == 4
    output = capsys.readouterr()
    assert "cannot reach the daemon at" in output.err
    event = json.loads(output.out)
    assert (event["event"], event["exit_code"]) == ("failed", 4)


@pytest.mark.parametrize(("where", "code"), [(Where.DESTINATION, 0), (Where.LEFT, 5)])
def test_guest_that_was_not_verified_at_the_destination_is_5(
    config: Path, monkeypatch: pytest.MonkeyPatch, where: Where, code: int
) -> None:
    async def run(_: MigrationRun) -> Where:
        return where

    monkeypatch.setattr(MigrationRun, "run", run)
    assert migrate(config, "web1", "hostb", "--desturi", "test:///default") == code


def test_interruption_before_the_migration_reports_no_location(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run(_: MigrationRun) -> Where:
        raise asyncio.CancelledError

    monkeypatch.setattr(MigrationRun, "run", run)
    assert migrate(config, "web1", "hostb", "--desturi", "test:///default") == 1
    assert capsys.readouterr().err == "error: interrupted before anything was moved\n"


@pytest.mark.parametrize("more", [(), ("--qmp", "/run/web1.qmp")])
def test_this_host_is_no_peer(
    config: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    assert migrate(config, "web1", "HOSTA", *more) == 2
    assert "hosta is this host" in capsys.readouterr().err


def test_no_route_to_libvirt_is_2_before_the_daemon_is_contacted(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert migrate(config, "web1", "hostb") == 2
    assert "no ingress of hostb leads to its libvirt: give --desturi" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["hostb", "HOSTB", "hostb."])
def test_peer_name_is_normalized(name: str) -> None:
    assert module._split(["web1", name]) == ("web1", "hostb")
