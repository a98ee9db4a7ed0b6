"""``mtunnel check``: validate a configuration and summarize it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from tunnel.cli import options
from tunnel.daemon.config import Config, IngressConfig, PeerConfig, load
from tunnel.daemon.config_warnings import faults, warnings
from tunnel.daemon.preflight import preflight
from tunnel.daemon.worker_count import count_workers
from tunnel.engine.choice import Choice, choose
from tunnel.errors import ConfigError
from tunnel.host.users import user_name
from tunnel.relay.address import RedirectAddress
from tunnel.tls.contexts import TlsContexts
from tunnel.tls.lane_kinds import figures
from tunnel.tls.rejections import now
from tunnel.units import format_duration, format_size


def check(
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, including problems.")] = False,
) -> None:
    """Validate a configuration and what it refers to, without starting anything.

    Checks the whole file, the certificates and the socket paths, asks the daemon, if it is running, whether
    connections are redirected, and reports all problems together.
    """
    try:
        checked, engine = load(config), choose()
        contexts = preflight(checked, str(config), engine)
        if wrong := list(faults(checked)):
            raise ConfigError(str(config), wrong)
    except ConfigError as error:
        if not as_json:
            raise
        problems = [{"key": key, "message": message} for key, message in error.problems]
        typer.echo(json.dumps({"ok": False, "file": str(config), "problems": problems}, indent=2))
        raise typer.Exit(error.exit_code) from None
    if as_json:
        notes = [{"key": key, "message": message} for key, message in warnings(checked, contexts)]
        facts = {"ok": True, "file": str(config), "warnings": notes, **_facts(checked, contexts, engine)}
        typer.echo(json.dumps(facts, indent=2))
    else:
        typer.echo("\n".join(_summary(config, checked, contexts, engine)))


def _facts(config: Config, contexts: TlsContexts, engine: Choice) -> dict[str, Any]:
    """Return the configuration with defaults filled in. Keys are stable; sizes in bytes, times in seconds."""
    host, transport = config.host, config.transport
    first = contexts.expiries(now())[0]
    return {
        "host": {
            "name": host.name,
            "listen": str(host.listen),
            "control": str(host.control),
            "metrics": str(host.metrics) if host.metrics else None,
        },
        "certificate": {
            "file": str(config.tls.cert),
            "names": list(contexts.names),
            "not_after": first.ends.isoformat(),
            "ends_first": first.what,
        },
        "transport": dict(transport),
        "lane": {**contexts.lane_facts(), "engine": engine.reason},
        "peers": [_peer_facts(peer) for peer in config.peers],
        "ingresses": [_ingress_facts(ingress) for ingress in config.ingresses],
    }


def _peer_facts(peer: PeerConfig) -> dict[str, Any]:
    return {"name": peer.name, "address": str(peer.address), "egress": [str(rule) for rule in peer.rules]}


def _ingress_facts(ingress: IngressConfig) -> dict[str, Any]:
    return {
        "peer": ingress.peer,
        "listen": str(ingress.listen),
        "target": str(ingress.target) if ingress.target else None,
        "users": _users(ingress),
    }


def _users(ingress: IngressConfig) -> list[str]:
    return [user_name(uid) for uid in sorted(ingress.uids)]


def _summary(path: Path, config: Config, contexts: TlsContexts, engine: Choice) -> Iterator[str]:
    host, transport = config.host, config.transport
    lanes = f"{transport.lanes} lane" + ("s" if transport.lanes > 1 else "")
    resume = (
        f"resume window {format_duration(transport.resume_window)}"
        if transport.resume_window
        else "no resume"
    )
    yield f"{path} is valid."
    yield ""
    yield f"host {host.name}, listening on {host.listen}"
    yield f"  certificate {', '.join(contexts.names)}: {_validity(contexts)}"
    yield (
        f"  links       {lanes} ({transport.lane}), {transport.streams} streams per peer,"
        f" {format_size(transport.memory)} memory, {resume}"
    )
    lane = contexts.lane_facts()
    costs = figures(lane["cpu_seconds_per_gib"], lane["kind"])
    yield f"  encryption  {lane['kind']} lanes{costs}: {lane['reason']}"
    yield f"  engine      userspace lanes: {engine.reason}"
    yield f"  workers     {count_workers(transport, compiled=engine.provider is not None)}"
    for peer in config.peers:
        yield ""
        yield f"peer {peer.name} at {peer.address}"
        yield from _column("egress", [str(rule) for rule in peer.rules] or ["none"])
        ingresses = [_route(ingress) for ingress in config.ingresses if ingress.peer == peer.name]
        yield from _column("ingress", ingresses or ["none"])
    if not config.peers:
        yield ""
        yield "no peers configured"
    for key, message in warnings(config, contexts):
        yield ""
        yield f"warning: {key}: {message}"


def _validity(contexts: TlsContexts) -> str:
    """Return how long all certificates of this host are valid, and which one of the chain expires first."""
    moment = now()
    first = contexts.expiries(moment)[0]
    which = "" if first.own == contexts.files.cert else f" ({first.what} expires first)"
    return f"valid until {first.ends:%Y-%m-%d}, {first.days_left(moment)} days{which}"


def _route(ingress: IngressConfig) -> str:
    there = "same port" if isinstance(ingress.listen, RedirectAddress) else str(ingress.target)
    return f"{ingress.listen} -> {there}, for {', '.join(_users(ingress))}"


def _column(title: str, lines: list[str]) -> Iterator[str]:
    for index, line in enumerate(lines):
        yield f"  {'' if index else title:<10}  {line}"
