"""The status of a link and of an ingress, by ``status_schema``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tunnel.lanes.lane import Lane
from tunnel.relay.incidents import moment
from tunnel.relay.ingress import Ingress
from tunnel.relay.link import Link
from tunnel.relay.pump import Pump
from tunnel.relay.status_schema import (
    IngressStatus,
    LaneStatus,
    LinkStatus,
    RotationStatus,
    SessionStatus,
    StreamStatus,
)


def link_facts(link: Link) -> LinkStatus:
    """Return the status of one link with its lanes and streams."""
    session = link.session
    return {
        "peer": link.peer,
        "state": link.state.value,
        "since": moment(link.since),
        "initiator": session.initiator if session else None,
        "round_trip": session.round_trip if session else None,
        "kept": session.kept if session else 0,
        "resumes": link.resumes,
        "rotation": rotation_facts(link),
        "streams_opened": link.streams.opened,
        "streams_vacant": session.places.vacant if session else None,
        "lanes": [lane_facts(lane) for lane in link.lanes.values()],
        "streams": [stream_facts(pump) for pump in link.streams.pumps.values()],
        "incidents": [incident.facts() for incident in link.incidents],
    }


class Part(NamedTuple):
    """One of several sessions with a peer: its name, its worker's number, and its ``link_facts``."""

    name: str
    worker: int
    facts: LinkStatus


def group_facts(parts: Sequence[Part], past: Mapping[str, int], vacant: int | None) -> LinkStatus:
    """Return all sessions with a peer together; the first is the primary one.

    ``past`` has the counters of ended sessions. Each lane and stream has the name of its ``session``.
    """
    first = parts[0].facts
    if len(parts) == 1 and not any(past.values()):
        return {**first, "sessions": _sessions(parts)}
    every = [part.facts for part in parts]
    incidents = sorted((each for facts in every for each in facts["incidents"]), key=lambda each: each["at"])
    return {
        **first,
        "kept": sum(facts["kept"] for facts in every),
        "resumes": past["resumes"] + sum(facts["resumes"] for facts in every),
        "rotation": _rotations([facts["rotation"] for facts in every]),
        "streams_opened": past["streams_opened"] + sum(facts["streams_opened"] for facts in every),
        "streams_vacant": vacant,
        "lanes": [{**lane, "session": part.name} for part in parts for lane in part.facts["lanes"]],
        "streams": [{**stream, "session": part.name} for part in parts for stream in part.facts["streams"]],
        "incidents": incidents,
        "sessions": _sessions(parts),
    }


def _sessions(parts: Sequence[Part]) -> list[SessionStatus]:
    return [
        {
            "session": part.name,
            "worker": part.worker,
            "state": part.facts["state"],
            "lanes": len(part.facts["lanes"]),
            "streams": len(part.facts["streams"]),
        }
        for part in parts
    ]


def _rotations(every: Sequence[RotationStatus]) -> RotationStatus:
    last = [rotation["last"] for rotation in every if rotation["last"] is not None]
    return {
        **every[0],
        "rotations": sum(rotation["rotations"] for rotation in every),
        "most_records": max(rotation["most_records"] for rotation in every),
        "last": max(last, key=lambda rotated: rotated["at"]) if last else None,
    }


def rotation_facts(link: Link) -> RotationStatus:
    """Return when lanes are replaced, how often that was, and the last one."""
    return {
        "records": link.rotation.plan.records,
        "after": link.rotation.plan.after,
        "rotations": link.rotations,
        "most_records": link.rotation.most_records,
        "last": link.last_rotation,
    }


def lane_facts(lane: Lane) -> LaneStatus:
    """Return the status of a lane."""
    return {
        "epoch": lane.epoch,
        "kind": lane.kind.value,
        "cipher": lane.cipher,
        "local": lane.local,
        "remote": lane.remote,
        "age": round(time.monotonic() - lane.since, 3),
        "bytes_sent": lane.bytes_sent,
        "bytes_received": lane.bytes_received,
        "records_sent": lane.records_sent,
        "records_received": lane.records_received,
    }


def stream_facts(pump: Pump) -> StreamStatus:
    """Return the status of a stream."""
    return {
        "stream": pump.number,
        "target": pump.target,
        "local": pump.caller,
        "bytes_from_local": pump.bytes_read,
        "bytes_to_local": pump.bytes_written,
        "backlog": pump.backlog,
    }


def ingress_facts(ingress: Ingress, fault: str | None = None) -> IngressStatus:
    """Return the status of an ingress. ``fault`` is why redirection fails."""
    return {
        "listen": str(ingress.plan.listen),
        "peer": ingress.peer,
        "port": ingress.port,
        "target": str(ingress.plan.target) if ingress.plan.target else None,
        "redirect": {"works": fault is None, "reason": fault} if ingress.plan.alias else None,
        "displaced": ingress.displaced,
        "accepted": ingress.accepted,
        "refused": ingress.refused,
    }
