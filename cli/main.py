"""The command ``mtunnel``: finds the subcommand, runs it, and turns failure into a message and exit code.

Subcommands are imported by name, when they are called: the daemon never loads what only ``certs`` or
``demo`` needs, and ``mtunnel --help`` loads none of them.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 refused, 4 not reachable, 5 moved, but not verified
(``migrate``), 130 interrupted.
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
"""What a shell reports for SIGINT: 128 + 2."""


class Subcommand(NamedTuple):
    """Where a subcommand lives, as ``module:attribute`` (a function or a Typer), and what it is for."""

    location: str
    help: str


SUBCOMMANDS: Mapping[str, Subcommand] = {
    "serve": Subcommand("tunnel.cli.serve:serve", "Run the daemon of this host."),
    "check": Subcommand("tunnel.cli.check:check", "Validate a configuration and what it refers to."),
    "status": Subcommand("tunnel.cli.status:status", "Show links, lanes and streams of the running daemon."),
    "migrate": Subcommand(
        "tunnel.cli.migrate.command:migrate", "Move a guest to a peer, through libvirt or without."
    ),
    "uri": Subcommand("tunnel.cli.uri:uri", "Print the lines for virsh, libvirt and Nova for a peer."),
    "guard": Subcommand(
        "tunnel.cli.guard_command:guard", "Keep other programs off the addresses of redirect ingresses."
    ),
    "certs": Subcommand("tunnel.cli.certs:app", "Make and inspect the certificates of the hosts."),
    "demo": Subcommand(
        "tunnel.cli.demo.demonstration:demo", "Migrate a real QEMU guest on this machine, and verify it."
    ),
}


class Subcommands(TyperGroup):
    """A group that knows its subcommands' names and help by heart, and imports one only to run it.

    The arguments are Any because older typer takes them from click, newer typer from its own copy of it.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Name all subcommands."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a subcommand; an unknown name is a usage error."""
        if cmd_name not in SUBCOMMANDS:
            nearest = get_close_matches(cmd_name, SUBCOMMANDS, n=1)
            hint = f": did you mean {nearest[0]!r}?" if nearest else ""
            ctx.fail(f"there is no command {cmd_name!r}{hint}")
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
        found.rich_markup_mode = None  # one look for the help of all subcommands
        return typer.main.get_command(found)
    single = _typer()
    single.command(name)(found)
    return typer.main.get_command(single)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run ``mtunnel`` with ``arguments``, or those of the process. Ends with SystemExit."""
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
            what = "the output cannot be written" if error.errno in _FULL else "the system says"
            _complain(f"{error.filename or what}: {error.strerror or error}")
        sys.exit(TunnelError.exit_code)
    finally:
        if _lost_output():
            sys.exit(TunnelError.exit_code)


def _complain(message: str) -> None:
    """Write an error to stderr, its first word red on a terminal (no-color.org).

    Where that cannot be written, the exit code still says what kind of error it was.
    """
    color = False if os.environ.get("NO_COLOR") else None
    with suppress(OSError):
        typer.secho("error:", fg=typer.colors.RED, bold=True, nl=False, err=True, color=color)
        typer.echo(f" {message}", err=True)


def _lost_output() -> bool:
    """Write what is buffered, and complain where that cannot be; whether it could not."""
    fault = _flush()
    if fault is not None:
        _complain(f"the output cannot be written: {fault.strerror or fault}")
    return fault is not None


def _flush() -> OSError | None:
    """Write what is buffered; why stdout cannot be written, if that is so and matters.

    It does not where the reader went away (``| head``). Nor does a stderr that cannot be written: the exit
    code says what it would have said.
    """
    fault = None
    for stream in (sys.stdout, sys.stderr):
        if stream is None:  # it was closed from the start
            continue
        try:
            stream.flush()
        except OSError as error:
            # The interpreter flushes once more at its end: give it a place (Python docs, "Note on SIGPIPE").
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if stream is sys.stdout and not isinstance(error, BrokenPipeError):
                fault = error
    return fault


if __name__ == "__main__":
    main()
