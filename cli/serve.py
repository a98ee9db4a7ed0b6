"""``mtunnel serve``: the daemon."""

from __future__ import annotations

from typing import Annotated

import typer
import uvloop

from tunnel.cli import options
from tunnel.daemon import logs
from tunnel.daemon.config import load
from tunnel.daemon.preflight import preflight
from tunnel.daemon.service import Service
from tunnel.transport.descriptors import raise_limit
from tunnel.transport.heap import keep_heap


def serve(
    config: options.Config = options.DEFAULT_CONFIG,
    log_level: Annotated[
        logs.Level, typer.Option(help="The least important event to log.")
    ] = logs.Level.INFO,
    log_format: Annotated[logs.Format, typer.Option(help="How to log.")] = logs.Format.AUTO,
) -> None:
    """Run the daemon of this host, until SIGTERM (lets streams end, host.drain_timeout) or SIGINT (at once).

    SIGHUP reads certificates and CRLs, and puts the firewall rules of redirect ingresses in place, again.
    """
    logs.occupy_standard_descriptors()
    with logs.Log(log_level, log_format):
        checked = load(config)
        contexts = preflight(checked, str(config), starting=True)
        keep_heap()
        raise_limit()

        async def run() -> None:
            await Service(checked, contexts).run()

        uvloop.run(run())
