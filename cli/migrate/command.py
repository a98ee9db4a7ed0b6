"""``mtunnel migrate``: migrate a guest to a peer, with checks before and after."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tunnel.cli.migrate.order import MigrateArguments
from tunnel.cli.migrate.output import Announcer, HumanOutput, JsonOutput
from tunnel.cli.migrate.run import UNVERIFIED, MigrationRun
from tunnel.cli.options import DEFAULT_CONFIG, Config, duration, rate
from tunnel.daemon.config import load
from tunnel.errors import TunnelError
from tunnel.names import folded
from tunnel.virt.guest_location import Where
from tunnel.virt.move_options import Action, MoveOptions, Storage

_NO_OPTIONS = {"names", "config", "via", "connect", "desturi", "qmp", "dest_qmp", "as_json"}
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _option(name: str, text: str, **more: Any) -> Any:
    return typer.Option(name, help=text, **more)


_Names = Annotated[list[str], typer.Argument(metavar="[GUEST] PEER", help="GUEST is optional with --qmp.")]
_P2p = Annotated[bool, _option("--p2p/--direct", "Managed by the source's libvirt, or by this command.")]
_Live = Annotated[bool, _option("--live/--no-live", "Keep the guest running during the migration.")]
_Postcopy = Annotated[
    bool, _option("--postcopy", "Switch to post-copy after the first pass, or at --timeout.")
]
_Resume = Annotated[bool, _option("--postcopy-resume", "Resume a failed post-copy (with --postcopy).")]
_Parallel = Annotated[
    int, _option("--parallel", "Number of multifd connections.", min=0, max=255, metavar="N")
]
_Storage = Annotated[Storage | None, _option("--copy-storage", "Copy disks too: all, or differences only.")]
_Persist = Annotated[bool, _option("--persist", "Define the guest persistently at the destination.")]
_Undefine = Annotated[bool, _option("--undefine-source", "Undefine the guest at the source afterwards.")]
_Bandwidth = Annotated[int | None, _option("--bandwidth", "Bandwidth limit.", parser=rate, metavar="RATE")]
_Timeout = Annotated[
    float | None, _option("--timeout", "Time limit, such as 90s.", parser=duration, metavar="TIME")
]
_Action = Annotated[Action, _option("--timeout-action", "Action at --timeout.")]
_Converge = Annotated[bool, _option("--auto-converge", "Throttle a guest that dirties memory too fast.")]
_Connect = Annotated[str, _option("--connect", "libvirt URI of this host.", metavar="URI")]
_Desturi = Annotated[
    str | None, _option("--desturi", "libvirt URI of the peer, if not through the tunnel.", metavar="URI")
]
_Tls = Annotated[str | None, _option("--tls-destination", "Also use QEMU's native TLS.", metavar="NAME")]
_Via = Annotated[str | None, _option("--via", "Ingress to use, if there are several.", metavar="ADDRESS")]
_Qmp = Annotated[Path | None, _option("--qmp", "Without libvirt: the guest's QMP socket.", metavar="SOCKET")]
_DestQmp = Annotated[
    Path | None, _option("--dest-qmp", "QMP socket of the destination's QEMU.", metavar="SOCKET")
]
_Preempt = Annotated[bool, _option("--postcopy-preempt", "Separate channel for urgent pages (--qmp).")]
_Return = Annotated[
    bool, _option("--return-path/--no-return-path", "Wait for the destination to confirm (--qmp).")
]
_Json = Annotated[bool, _option("--json", "Print events as JSON, one per line.")]


def migrate(
    names: _Names,
    config: Config = DEFAULT_CONFIG,
    p2p: _P2p = True,
    live: _Live = True,
    postcopy: _Postcopy = False,
    postcopy_resume: _Resume = False,
    parallel: _Parallel = 0,
    copy_storage: _Storage = None,
    persist: _Persist = False,
    undefine_source: _Undefine = False,
    bandwidth: _Bandwidth = None,
    timeout: _Timeout = None,
    timeout_action: _Action = Action.SUSPEND,
    auto_converge: _Converge = False,
    connect: _Connect = "qemu:///system",
    desturi: _Desturi = None,
    tls_destination: _Tls = None,
    via: _Via = None,
    qmp: _Qmp = None,
    dest_qmp: _DestQmp = None,
    postcopy_preempt: _Preempt = False,
    return_path: _Return = True,
    as_json: _Json = False,
) -> None:
    """Migrate a guest to a peer, through libvirt or (with --qmp) through QEMU's monitor.

    Checks the prerequisites first, and afterwards on which host the guest runs. ctrl-C aborts, and waits
    until the guest is verified to run here. Exit code 5: it has left, but could not be verified at the peer.
    """
    given = {**locals()}  # the other parameters above are fields of MoveOptions
    options = MoveOptions(**{name: value for name, value in given.items() if name not in _NO_OPTIONS})
    guest, peer = _split(names)
    order = MigrateArguments(load(config), guest, peer, options, via, connect, desturi, qmp, dest_qmp)
    order.check()
    _run(order, JsonOutput() if as_json else HumanOutput(Console(stderr=True)))


def _split(names: list[str]) -> tuple[str | None, str]:
    if len(names) > 2:
        raise typer.BadParameter(f"expected GUEST PEER, got {len(names)} names: {' '.join(names)}")
    return (names[0] if len(names) == 2 else None), folded(names[-1])


def _run(order: MigrateArguments, announcer: Announcer) -> None:
    """Run the migration. The first signal aborts it in order; later ones do not interrupt that."""

    async def interruptible() -> Where:
        migration = MigrationRun(order, announcer)
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, migration.interrupt)
        return await migration.run()

    try:
        where = asyncio.run(interruptible())
    except TunnelError as error:
        announcer.failed(error)
        raise
    except asyncio.CancelledError:
        stopped = TunnelError("interrupted before anything was moved")
        announcer.failed(stopped)
        raise stopped from None
    if where is Where.LEFT:
        raise typer.Exit(UNVERIFIED)
