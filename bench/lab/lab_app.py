"""The ``lab`` command: the two-host lab for interactive use."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tunnel.bench.lab import background
from tunnel.bench.lab.host_plan import plan
from tunnel.bench.lab.libvirtd import SOCKET
from tunnel.bench.lab.programs import environment
from tunnel.bench.lab.tools import path_of
from tunnel.errors import UsageError

app = typer.Typer(
    help="Two hosts on this machine, each with its own libvirtd and firewall.",
    no_args_is_help=True,
    add_completion=False,
)

Directory = Annotated[
    Path, typer.Option("--directory", help="Directory of the lab's files; one lab at a time in each.")
]
Congestion = Annotated[
    str, typer.Option(help="TCP congestion control of every socket; default: the machine's.")
]

DEFAULT = Path(tempfile.gettempdir()) / "mtunnel-lab"


@app.command()
def up(directory: Directory = DEFAULT, congestion: Congestion = "") -> None:
    """Start the lab in the background."""
    place = directory.absolute()
    seconds = background.start(place, congestion or None)
    typer.echo(f"the lab is up, in {seconds:.1f} s\n\n{next_steps(place)}")


@app.command()
def down(directory: Directory = DEFAULT) -> None:
    """Stop the lab, with everything that runs in it."""
    place = directory.absolute()
    typer.echo("the lab is down" if background.stop(place) else f"no lab is up in {place}")


@app.command()
def shell(
    host: Annotated[str, typer.Argument(help="A or B.")],
    directory: Directory = DEFAULT,
) -> None:
    """Open a shell on a host of the lab."""
    place, letter = directory.absolute(), host.upper()
    lab = background.kept(place)
    if lab is None:
        raise UsageError(f"no lab is up in {place}: start it with ./run lab up")
    if letter not in lab.hosts:
        raise UsageError(f"HOST must be A or B, not {host!r}")
    enter = ["nsenter", f"--target={lab.hosts[letter]}", "--mount", "--uts", "--net", "--pid", "--"]
    found = environment({"PS1": r"[lab \h \w]# ", "TERM": os.environ.get("TERM", "dumb")})
    os.execve(path_of("nsenter"), [*enter, "/bin/bash", "--norc"], found)  # noqa: S606  no shell in between


@app.command(hidden=True)
def keep(directory: Directory, congestion: Congestion = "") -> None:
    """Run as the background process that owns the lab; ``up`` starts it."""
    background.keep(directory, congestion or None)


def next_steps(directory: Path) -> str:
    """Return the commands to use with a lab that is up."""
    a, b = plan(directory)
    return f"""\
    ./run lab shell A                        a shell on {a.fqdn} ({a.address}); B is {b.fqdn} ({b.address})
    ./run lab down                           stop it

from this machine (host A; the same with B):
    virsh -c 'qemu:///system?socket={a.outside(SOCKET)}' list --all

from a shell on A, to the libvirtd of B, after opening B's firewall:
    nft add element inet lab_firewall open '{{ 16509, 49152-49215 }}'    (in a shell on B)
    virsh migrate --live GUEST qemu+tcp://{b.fqdn}/system

certificates: /etc/mtunnel, /etc/pki     files of the hosts: {directory}"""
