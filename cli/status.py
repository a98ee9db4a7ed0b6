"""``mtunnel status``: show the state of the running daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.filesize import decimal

from tunnel.cli import options
from tunnel.daemon.config import load
from tunnel.daemon.control_socket import ask_status
from tunnel.relay.link_plan import LinkState
from tunnel.relay.status_schema import (
    PRIMARY,
    CertificateStatus,
    DaemonStatus,
    IncidentStatus,
    IngressStatus,
    LaneStatus,
    LinkStatus,
    StreamStatus,
    WorkerState,
    WorkerStatus,
)
from tunnel.tls.lane_kinds import figures

NOT_UP = 1
"""The exit code of ``--check`` when the daemon reports a problem."""

_MOST_INCIDENTS = 3
_DISPLACED = "its socket was removed or replaced: restart the daemon"


def status(
    config: options.Config = options.DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="For monitoring: print problems, and exit with 1 if any.")
    ] = False,
) -> None:
    """Show links, lanes and streams of the running daemon.

    Exit codes with --check: 0 all links are up, 1 a link is not up or there is another problem, 2 the
    configuration is invalid, 4 no daemon answers. Without --check: 0 whenever a daemon answers.
    """
    facts = ask_status(load(config).host.control)
    problems = list(_problems(facts, _now()))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    elif check:
        warnings = [f"warning: {warning}" for warning in facts["certificate"]["warnings"]]
        typer.echo("\n".join([*(problems or [_all_well(facts)]), *warnings]))
    else:
        typer.echo("\n".join(_describe(facts)))
    if check and problems:
        raise typer.Exit(NOT_UP)


def _now() -> datetime:
    return datetime.now(UTC)


def _problems(facts: DaemonStatus, now: datetime) -> Iterator[str]:
    if facts["draining"]:
        yield "the daemon is stopping"
    if datetime.fromisoformat(facts["certificate"]["not_after"]) <= now:
        yield _certificate(facts["certificate"], now)
    if facts["certificate"]["problem"]:
        yield _unusable(facts["certificate"])
    yield from _problems_of_links(facts["links"])
    for worker in facts.get("workers", []):
        if worker["state"] != WorkerState.SERVING:
            yield f"worker {worker['worker']}: {worker['state']}; restart the daemon"
    for ingress in facts["ingresses"]:
        redirect = ingress["redirect"]
        if redirect is not None and not redirect["works"]:
            yield f"ingress {ingress['listen']} is not redirected: {redirect['reason']}"
        if ingress.get("displaced"):
            yield f"ingress {ingress['listen']}: {_DISPLACED}"


def _problems_of_links(links: Sequence[LinkStatus]) -> Iterator[str]:
    for link in links:
        if link["state"] != LinkState.UP:
            current, _ = _parted(link)
            cause = f": {current[-1]['what']}: {current[-1]['reason']}" if current else ""
            yield f"link {link['peer']} is {link['state']} since {link['since']}{cause}"


def _all_well(facts: DaemonStatus) -> str:
    names = [link["peer"] for link in facts["links"]]
    return f"all links are up: {', '.join(names)}" if names else "there are no links"


def _describe(facts: DaemonStatus) -> Iterator[str]:
    draining = ", draining" if facts["draining"] else ""
    where = facts["listen"] if facts["listen_configured"] else f"{facts['listen']} (not on any interface)"
    yield f"host {facts['host']} on {where}, up {facts['uptime']:.0f} s{draining}"
    yield _certificate(facts["certificate"], _now())
    yield from _about_certificates(facts["certificate"])
    lane = facts["lane"]
    costs = figures(lane.get("cpu_seconds_per_gib"), lane["kind"])
    yield f"{lane['kind']} lanes{costs}: {lane['reason']}"
    if engine := lane.get("engine"):
        yield f"engine of userspace lanes: {engine}"
    yield from _workers(facts.get("workers", []))
    for link in facts["links"]:
        yield from _link(link)
    for ingress in facts["ingresses"]:
        yield _ingress(ingress)


def _workers(workers: Sequence[WorkerStatus]) -> Iterator[str]:
    """Yield the load of each worker, if there are several."""
    if len(workers) > 1:
        for worker in workers:
            has = f"{_count(worker['sessions'], 'session')}, {_count(worker['streams'], 'stream')}"
            yield f"worker {worker['worker']}: {worker['state']}, {has}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _session(part: LaneStatus | StreamStatus) -> str:
    """Return the session of a lane or stream, if not the primary one."""
    return "" if part.get("session", PRIMARY) == PRIMARY else f" ({part['session']})"


def _certificate(certificate: CertificateStatus, now: datetime) -> str:
    """Return how long all certificates and CRLs are valid, and which of them expires first."""
    end = datetime.fromisoformat(certificate["not_after"])
    which = f" ({certificate['ends_first']})"
    if end <= now:
        return f"certificate expired on {end:%Y-%m-%d}{which}"
    days = (end - now).days
    return f"certificate valid until {end:%Y-%m-%d}, {days} day{'' if days == 1 else 's'} left{which}"


def _about_certificates(certificate: CertificateStatus) -> Iterator[str]:
    """Yield expiry warnings and problems of the files."""
    for warning in certificate["warnings"]:
        yield f"  warning: {warning}"
    if certificate["problem"]:
        yield f"  {_unusable(certificate)}"


def _unusable(certificate: CertificateStatus) -> str:
    return f"unusable certificate files: {certificate['problem']}"


def _ingress(ingress: IngressStatus) -> str:
    counts = f"{ingress['accepted']} accepted, {ingress['refused']} refused"
    where = ingress["listen"]
    redirect = ingress["redirect"]
    if redirect is not None:
        where += f" (port {ingress['port']})"
        counts += "" if redirect["works"] else f"; NOT REDIRECTED: {redirect['reason']}"
    counts += f"; {_DISPLACED}" if ingress.get("displaced") else ""
    return f"ingress {where} -> {ingress['peer']} {ingress['target'] or 'same port'}: {counts}"


def _link(link: LinkStatus) -> Iterator[str]:
    yield f"link {link['peer']}: {link['state']} since {link['since']}"
    rotation = link["rotation"]
    for lane in link["lanes"]:
        sent, received = decimal(lane["bytes_sent"]), decimal(lane["bytes_received"])
        records = (
            f"{lane['records_sent']} out and {lane['records_received']} in of {rotation['records']} records"
        )
        route = f"{lane['local']} - {lane['remote']}"
        carried = f"{sent} out, {received} in, {records}"
        yield f"  lane {lane['epoch']}{_session(lane)}: {lane['kind']}, {lane['cipher']}, {route}, {carried}"
    if last := rotation["last"]:
        count, epoch = rotation["rotations"], last["lane"]
        yield f"  lanes replaced: {count}, last: lane {epoch} at {last['at']}: {last['reason']}"
    for stream in link["streams"]:
        out, into = decimal(stream["bytes_from_local"]), decimal(stream["bytes_to_local"])
        name = f"{stream['stream']}{_session(stream)}"
        yield f"  stream {name}: {stream['target']}, {out} sent, {into} received"
    current, before = _parted(link)
    for incident in current[-_MOST_INCIDENTS:]:
        yield f"  {_incident(incident)}"
    if before:
        yield "  earlier:"
        for incident in before[-_MOST_INCIDENTS:]:
            yield f"    {_incident(incident)}"


def _parted(link: LinkStatus) -> tuple[Sequence[IncidentStatus], Sequence[IncidentStatus]]:
    """Split the incidents into those of the link's present state and those from before it came up.

    Times are ISO 8601 in UTC, all in the same format, so that they compare as text.
    """
    incidents = link["incidents"]
    if link["state"] != LinkState.UP:
        return incidents, ()
    return (
        [each for each in incidents if each["at"] >= link["since"]],
        [each for each in incidents if each["at"] < link["since"]],
    )


def _incident(incident: IncidentStatus) -> str:
    times = f" ({incident['count']:,} times since {incident['since']})" if incident["count"] > 1 else ""
    return f"{incident['at']} {incident['what']}: {incident['reason']}{times}"
