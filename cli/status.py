"""``mtunnel status``: what the running daemon of this host is doing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from tunnel.cli import options
from tunnel.daemon.config import load
from tunnel.daemon.control import ask


def status(
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Show links, lanes and streams of the running daemon."""
    facts = ask(load(config).host.control, "status")
    typer.echo(json.dumps(facts, indent=2) if as_json else "\n".join(_describe(facts)))


def _describe(facts: dict[str, Any]) -> Iterator[str]:
    draining = ", draining" if facts["draining"] else ""
    yield f"host {facts['host']} on {facts['listen']}, up {facts['uptime']:.0f} s{draining}"
    yield f"{facts['lane']['kind']} lanes: {facts['lane']['reason']}"
    for link in facts["links"]:
        yield from _link(link)
    for ingress in facts["ingresses"]:
        yield _ingress(ingress)


def _ingress(ingress: dict[str, Any]) -> str:
    counts = f"{ingress['accepted']} accepted, {ingress['refused']} refused"
    where = ingress["listen"]
    if where.startswith("redirect:"):
        where += f" (port {ingress['port']})"
    return f"ingress {where} -> {ingress['peer']} {ingress['target'] or 'same port'}: {counts}"


def _link(link: dict[str, Any]) -> Iterator[str]:
    yield f"link {link['peer']}: {link['state']}"
    for lane in link["lanes"]:
        sent, received = decimal(lane["bytes_sent"]), decimal(lane["bytes_received"])
        route = f"{lane['local']} - {lane['remote']}"
        yield f"  lane {lane['epoch']}: {lane['kind']}, {lane['cipher']}, {route}, {sent} out, {received} in"
    for stream in link["streams"]:
        out, into = decimal(stream["bytes_from_local"]), decimal(stream["bytes_to_local"])
        yield f"  stream {stream['stream']}: {stream['target']}, {out} sent, {into} received"
    for incident in link["incidents"][-3:]:
        times = f" ({incident['count']:,} times since {incident['since']})" if incident["count"] > 1 else ""
        yield f"  {incident['at']} {incident['what']}: {incident['reason']}{times}"
