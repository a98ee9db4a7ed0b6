"""The command line: lazy subcommands, one message per failure, exit codes."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated

import pytest
import typer

from tunnel.cli import main as frame
from tunnel.cli import options
from tunnel.cli.main import SUBCOMMANDS, Subcommand, main
from tunnel.errors import (
    CertificateError,
    ConfigError,
    MigrationError,
    RefusedError,
    TunnelError,
    UnreachableError,
    UsageError,
)

HEAVY = {"cryptography", "pydantic", "rich", "structlog", "qemu", "libvirt", "pyroute2", "uvloop", "asyncio"}

Install = Callable[[Callable[..., None] | typer.Typer], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a function or a Typer as the subcommand ``act``, in a separate module."""

    def put(act: Callable[..., None] | typer.Typer) -> None:
        module = ModuleType("acting")
        module.act = act  # type: ignore[attr-defined]  # a module made by hand
        monkeypatch.setitem(sys.modules, "acting", module)
        monkeypatch.setattr(frame, "SUBCOMMANDS", {"act": Subcommand("acting:act", "Do it.")})

    return put


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0)


def in_a_process(
    code: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        command, stdout=stdout, stderr=stderr, text=True, timeout=60, check=False, env=buffered
    )


def failing(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def test_help_lists_every_subcommand_and_imports_none() -> None:
    done = in_a_process(
        "import sys\n"
        "from tunnel.cli.main import main\n"
        "try: main(['--help'])\n"
        "finally: print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)\n"
    )
    assert done.returncode == 0
    for name, subcommand in SUBCOMMANDS.items():
        assert name in done.stdout
        assert subcommand.help in done.stdout
    assert not HEAVY & set(done.stderr.split())


def test_only_the_called_subcommand_is_imported(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(failing(typer.Exit()))
    others = {"broken": Subcommand("tunnel.cli.there_is_none:act", "Fail.")}
    monkeypatch.setattr(frame, "SUBCOMMANDS", {**frame.SUBCOMMANDS, **others})
    assert run("act") == 0
    assert run("--help") == 0
    with pytest.raises(ModuleNotFoundError):
        main(["broken"])


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("mtunnel 0.")


def test_the_module_is_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "tunnel.cli.main", "--version"]
    assert subprocess.check_output(command, text=True, timeout=60).startswith("mtunnel ")


def test_a_function_becomes_a_subcommand(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    def act(name: str, loud: Annotated[bool, typer.Option(help="Shout.")] = False) -> None:
        """Greet a host."""
        typer.echo(f"hello {name}{'!' * loud}")

    install(act)
    assert run("act", "--loud", "--", "-hostb") == 0
    assert capsys.readouterr().out == "hello -hostb!\n"
    assert run("act", "-h") == 0
    usage = capsys.readouterr().out
    assert usage.startswith("Usage: mtunnel act [OPTIONS]")
    assert "\n  Greet a host.\n" in usage


def test_a_typer_becomes_a_group(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    group = typer.Typer(help="Many things.")
    group.command("one")(lambda: typer.echo("one done"))
    group.command("two")(lambda: typer.echo("two done"))
    install(group)
    assert run("act", "two") == 0
    assert capsys.readouterr().out == "two done\n"
    assert run("act", "--help") == 0
    assert capsys.readouterr().out.startswith("Usage: mtunnel act [OPTIONS] COMMAND")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TunnelError("no"), 1),
        (MigrationError("no"), 1),
        (UsageError("no"), 2),
        (CertificateError("no"), 2),
        (RefusedError("no"), 3),
        (UnreachableError("no"), 4),
    ],
)
def test_failures_are_one_message_and_their_code(
    error: TunnelError, code: int, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(failing(error))
    assert run("act") == code
    assert capsys.readouterr() == ("", "error: no\n")


def test_all_problems_of_a_file_are_shown(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(failing(ConfigError("a.toml", [("host.name", "is missing"), ("tls", "is missing")])))
    assert run("act") == 2
    assert capsys.readouterr().err == (
        "error: a.toml: 2 problems\n  host.name: is missing\n  tls: is missing\n"
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["chekc"], "unknown command 'chekc': did you mean 'check'?"),
        (["xyzzy"], "unknown command 'xyzzy'"),
        (["--colour"], "No such option"),
        ([], "Usage: mtunnel"),
    ],
)
def test_wrong_usage_is_2(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert complaint in "".join(capsys.readouterr())


def test_a_missing_argument_is_2(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(lambda name: typer.echo(name))
    assert run("act") == 2
    assert "Usage: mtunnel act" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "check", "status", "uri", "migrate"])
def test_the_configuration_has_one_default(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert Path("/etc/mtunnel/mtunnel.toml") == options.DEFAULT_CONFIG
    assert run(command, "--help") == 0
    assert "/etc/mtunnel/mtunnel.toml" in capsys.readouterr().out


def test_an_interrupt_is_130_and_quiet(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(failing(KeyboardInterrupt()))
    assert run("act") == 130
    assert capsys.readouterr() == ("", "")


def test_an_interrupt_before_the_command_line_was_read_is_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: typer.Typer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(typer.main, "get_command", interrupted)
    assert run("check") == 130
    assert capsys.readouterr() == ("", "")


def test_a_bug_shows_its_whole_plain_traceback() -> None:
    done = in_a_process(
        "import sys, types\n"
        "from tunnel.cli import main as frame\n"
        "sys.modules['acting'] = module = types.ModuleType('acting')\n"
        "module.act = lambda: {}['lane']\n"
        "frame.SUBCOMMANDS = {'act': frame.Subcommand('acting:act', '')}\n"
        "frame.main(['act'])\n"
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert done.stderr.endswith("KeyError: 'lane'\n")


@pytest.mark.parametrize(("lines", "status"), [(1, 0), (100_000, 1)])  # within the buffer, and beyond it
def test_a_closed_pipe_is_not_reported(lines: int, status: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = (
        "import sys, types\n"
        "from tunnel.cli import main as frame\n"
        "sys.modules['acting'] = module = types.ModuleType('acting')\n"
        f"module.act = lambda: print('a line' * {lines})\n"
        "frame.SUBCOMMANDS = {'act': frame.Subcommand('acting:act', '')}\n"
        "frame.main(['act'])\n"
    )
    try:
        done = in_a_process(code, stdout=writer)
    finally:
        os.close(writer)
    assert done.returncode == status
    assert done.stderr == ""


@pytest.mark.parametrize("options", [["--version"], ["check", "--json", "-c", "/none"]])
@pytest.mark.parametrize("buffered", [True, False])
def test_lost_output_is_a_failure(options: list[str], buffered: bool) -> None:
    code = f"import sys; sys.stdout.reconfigure(write_through={not buffered})\n"
    code += f"from tunnel.cli.main import main; main({options})"
    with Path("/dev/full").open("w") as full:
        done = in_a_process(code, stdout=full.fileno())
    assert done.returncode == 1
    assert done.stderr == "error: cannot write output: No space left on device\n"


def test_system_errors_are_one_line(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(failing(OSError(errno.EMFILE, "Too many open files")))
    assert run("act") == 1
    install(failing(PermissionError(errno.EACCES, "Permission denied", "/srv/file")))
    assert run("act") == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: system error: Too many open files",
        "error: /srv/file: Permission denied",
    ]


@pytest.mark.parametrize(("no_color", "shown"), [("", b"\x1b[31m\x1b[1merror:\x1b[0m "), ("1", b"error: ")])
def test_errors_are_red_on_a_terminal_only(
    no_color: str, shown: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    master, terminal = pty.openpty()
    try:
        done = in_a_process(
            "from tunnel.cli.main import main; main(['check', '-c', '/none'])", stderr=terminal
        )
        assert done.returncode == 2
        assert os.read(master, 4096).startswith(shown + b"/none: 1 problem")
    finally:
        os.close(master)
        os.close(terminal)


@pytest.mark.parametrize("redirected", ["2>&-", "2>/dev/full", ">&- 2>&-"])
def test_unwritable_error_keeps_its_exit_code(tmp_path: Path, redirected: str) -> None:
    command = f'exec "$0" -m tunnel.cli.main check --config "$1" {redirected}'
    argv = ["/bin/sh", "-c", command, sys.executable, str(tmp_path / "none.toml")]
    assert subprocess.run(argv, check=False, timeout=60).returncode == ConfigError.exit_code
