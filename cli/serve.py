"""``mtunnel serve``: run the daemon."""

from __future__ import annotations

from typing import Annotated

import structlog
import typer
import uvloop

from tunnel.cli import options
from tunnel.daemon import logs
from tunnel.daemon.config import load
from tunnel.daemon.instance_lock import claimed
from tunnel.daemon.preflight import preflight
from tunnel.daemon.sandbox import confine
from tunnel.daemon.service import Service
from tunnel.engine.choice import choose
from tunnel.host.descriptors import raise_limit
from tunnel.host.malloc import tune_collector, tune_malloc
from tunnel.host.privileges import forbid_core_dumps

log = structlog.get_logger()


def serve(
    config: options.Config = options.DEFAULT_CONFIG,
    log_level: Annotated[logs.Level, typer.Option(help="Minimum level to log.")] = logs.Level.INFO,
    log_format: Annotated[logs.Format, typer.Option(help="Log format.")] = logs.Format.AUTO,
) -> None:
    """Run the daemon until SIGTERM (drains streams, see host.drain_timeout) or SIGINT (immediate).

    SIGHUP reloads certificates and CRLs, and reinstalls the firewall rules of redirect ingresses.
    """
    forbid_core_dumps()
    checked = load(config)
    with claimed(checked.host.control):
        engine = choose()  # its libraries may be inaccessible once confined
        contexts = preflight(checked, str(config), engine, starting=True)
        raise_limit()
        confined = confine(checked, config) if checked.host.confine else "off, as configured"
        tune_malloc()
        tune_collector()

        async def run() -> None:
            log.info("confined", to=str(confined))
            await Service(checked, contexts, engine).run()

        with logs.Log(log_level, log_format):  # starts a thread: privileges must be dropped before
            uvloop.run(run())
