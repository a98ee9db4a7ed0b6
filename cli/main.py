"""The command ``mtunnel``: dispatches the subcommand, and turns failures into a message and an exit code.

Subcommands are imported lazily: the daemon never loads what only ``certs`` or ``demo`` needs, and
``mtunnel --help`` loads none of them.

Exit codes: 0 success, 1 failure, 2 usage or configuration, 3 refused, 4 unreachable, 5 migrated but not
verified (``migrate``), 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Annotated, Any, NamedTuple, NoReturn

import typer
from typer.core import TyperGroup

from tunnel import distribution
from tunnel.errors import TunnelError
from tunnel.host.descriptors import occupy_standard_descriptors

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
INTERRUPTED = 130
"""The shell's exit status for SIGINT: 128 + 2."""


class Subcommand(NamedTuple):
    """The location of a subcommand, as ``module:attribute`` (a function or a Typer), and its help text."""

    location: str
    help: str


SUBCOMMANDS: Mapping[str, Subcommand] = {
    "serve": Subcommand("tunnel.cli.serve:serve", "Run the daemon of this host."),
    "check": Subcommand("tunnel.cli.check:check", "Validate a configuration and what it refers to."),
    "status": Subcommand("tunnel.cli.status:status", "Show links, lanes and streams of the running daemon."),
    "migrate": Subcommand(
        "tunnel.cli.migrate.command:migrate", "Migrate a guest to a peer, through libvirt or QMP."
    ),
    "uri": Subcommand("tunnel.cli.uri:uri", "Print virsh, libvirt and Nova commands for a peer."),
    "guard": Subcommand(
        "tunnel.cli.guard_command:guard", "Keep other programs off the addresses of redirect ingresses."
    ),
    "certs": Subcommand("tunnel.cli.certs:app", "Create and inspect host certificates."),
    "demo": Subcommand(
        "tunnel.cli.demo.demonstration:demo", "Migrate a real QEMU guest on this machine, and verify it."
    ),
}


class Subcommands(TyperGroup):
    """A command group that lists subcommands from a static table, and imports one only to run it.

    Arguments are Any because older typer uses click's types, newer typer those of its own copy of click.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all subcommands."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a subcommand; an unknown name is a usage error."""
        if cmd_name not in SUBCOMMANDS:
            nearest = get_close_matches(cmd_name, SUBCOMMANDS, n=1)
            hint = f": did you mean {nearest[0]!r}?" if nearest else ""
            ctx.fail(f"unknown command {cmd_name!r}{hint}")
        return _load(cmd_name, SUBCOMMANDS[cmd_name].location)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of subcommands for ``--help``."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, subcommand.help) for name, subcommand in SUBCOMMANDS.items()])


def _typer(**options: Any) -> typer.Typer:
    # No completion: installing it would edit root's dotfiles. No rich: help and tracebacks are plain text.
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **options,
    )


app = _typer(cls=Subcommands, no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mtunnel {distribution.version()}")
        raise typer.Exit


@app.callback()
def mtunnel(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Move running virtual machines between hypervisors, encrypted, over one firewall port."""


def _load(name: str, location: str) -> Any:
    module, _, attribute = location.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        found.rich_markup_mode = None  # the same help format for all subcommands
        return typer.main.get_command(found)
    single = _typer()
    single.command(name)(found)
    return typer.main.get_command(single)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run ``mtunnel`` with ``arguments``, by default sys.argv. Always raises SystemExit."""
    occupy_standard_descriptors()
    try:
        sys.exit(typer.main.get_command(app).main(arguments, prog_name="mtunnel"))
    except TunnelError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except OSError as error:
        if not _lost_output():
            what = "cannot write output" if error.errno in _FULL else "system error"
            _complain(f"{error.filename or what}: {error.strerror or error}")
        sys.exit(TunnelError.exit_code)
    finally:
        if _lost_output():
            sys.exit(TunnelError.exit_code)


def _complain(message: str) -> None:
    """Write an error to stderr, with a red prefix on a terminal (no-color.org).

    If stderr cannot be written, the exit code still reports the kind of error.
    """
    color = False if os.environ.get("NO_COLOR") else None
    with suppress(OSError):
        typer.secho("error:", fg=typer.colors.RED, bold=True, nl=False, err=True, color=color)
        typer.echo(f" {message}", err=True)


def _lost_output() -> bool:
    """Flush the output; print an error and return True when stdout cannot be written."""
    fault = _flush()
    if fault is not None:
        _complain(f"cannot write output: {fault.strerror or fault}")
    return fault is not None


def _flush() -> OSError | None:
    """Flush stdout and stderr; return the error when stdout cannot be written.

    A closed pipe (``| head``) is no error. Nor is an unwritable stderr: the exit code carries the result.
    """
    fault = None
    for stream in (sys.stdout, sys.stderr):
        if stream is None:  # closed at startup
            continue
        try:
            stream.flush()
        except OSError as error:
            # The interpreter flushes again at exit: redirect to /dev/null (Python docs, "Note on SIGPIPE").
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if stream is sys.stdout and not isinstance(error, BrokenPipeError):
                fault = error
    return fault


if __name__ == "__main__":
    main()
