"""The schema of ``status``, the JSON that the daemon returns on its control socket. Bytes, seconds.

The keys are stable: programs read them, and new ones are only added. A daemon of an older version lacks the
newer keys: code that may read its reply uses ``get`` for them. Times are ISO 8601, UTC, and sort as text.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NotRequired, TypedDict

from tunnel.tls.lane_kinds import EncryptionStatus

PRIMARY = "standing"
"""The name of the primary session with a peer."""


class WorkerState(StrEnum):
    """The state of a worker."""

    SERVING = "serving"
    SILENT = "does not answer"
    ENDED = "ended"


class IncidentStatus(TypedDict):
    """An incident: ``kind`` is the name of an IncidentKind, ``code`` that of a protocol code, or "".

    ``uid`` is the user of the last local client that caused it, None if there was none. ``what`` and
    ``reason`` are text for people. ``at`` is the last time, ``since`` the first.
    """

    at: str
    since: str
    count: int
    kind: str
    what: str
    reason: str
    code: str
    uid: int | None


class ReplacedStatus(TypedDict):
    """The last lane that was replaced: its epoch, and why."""

    at: str
    lane: int
    reason: str


class RotationStatus(TypedDict):
    """When lanes are replaced, how often that was, and the last one; ``last`` is None before any.

    ``most_records``: the most records protected with one key of a lane that was replaced or lost.
    """

    records: int
    after: float
    rotations: int
    most_records: int
    last: ReplacedStatus | None


class LaneStatus(TypedDict):
    """A lane. ``bytes_*`` count frames, ``records_*`` TLS records: one key each.

    ``session`` is set if there are or were several sessions with the peer.
    """

    epoch: int
    kind: str
    cipher: str
    local: str
    remote: str
    age: float
    bytes_sent: int
    bytes_received: int
    records_sent: int
    records_received: int
    session: NotRequired[str]


class StreamStatus(TypedDict):
    """A stream. ``backlog``: bytes not yet accepted by the local hypervisor; ``session`` as in LaneStatus."""

    stream: int
    target: str
    local: str
    bytes_from_local: int
    bytes_to_local: int
    backlog: int
    session: NotRequired[str]


class SessionStatus(TypedDict):
    """A session with a peer, with the numbers of its lanes and streams."""

    session: str
    worker: int
    state: str
    lanes: int
    streams: int


class LinkStatus(TypedDict):
    """A link. ``state`` is the value of a LinkState, ``since`` when it began.

    ``initiator``, ``round_trip`` and ``streams_vacant`` are None without a session. ``sessions`` is set in
    the entry of a peer, which has the lanes and streams of all its sessions.
    """

    peer: str
    state: str
    since: str
    initiator: bool | None
    round_trip: float | None
    kept: int
    resumes: int
    rotation: RotationStatus
    streams_opened: int
    streams_vacant: int | None
    lanes: list[LaneStatus]
    streams: list[StreamStatus]
    incidents: list[IncidentStatus]
    sessions: NotRequired[list[SessionStatus]]


class RedirectStatus(TypedDict):
    """Whether redirection works, and if not, why."""

    works: bool
    reason: str | None


class IngressStatus(TypedDict):
    """An ingress, with its numbers of accepted and refused connections.

    ``port`` is the port bound, None for a unix socket; ``target`` is None if it depends on the port that the
    client connected to. ``redirect`` is None if none is needed. ``displaced``: clients cannot connect any
    more, as the file of the unix socket is gone.
    """

    listen: str
    peer: str
    port: int | None
    target: str | None
    redirect: RedirectStatus | None
    displaced: bool
    accepted: int
    refused: int


class WorkerStatus(TypedDict):
    """A worker, with the numbers of its sessions and streams."""

    worker: int
    state: WorkerState
    sessions: int
    streams: int


class CertificateStatus(TypedDict):
    """The certificates and CRLs in use. ``problem`` is why the files cannot be used, None if they can."""

    names: list[str]
    not_after: str
    ends_first: str
    days_left: int
    warnings: list[str]
    problem: str | None


class DaemonStatus(TypedDict):
    """The reply to ``status``. ``rejected`` counts connections that failed to authenticate."""

    host: str
    version: str
    pid: int
    uptime: float
    draining: bool
    listen: str
    listen_configured: bool
    rejected: int
    certificate: CertificateStatus
    lane: EncryptionStatus
    workers: list[WorkerStatus]
    links: list[LinkStatus]
    ingresses: list[IngressStatus]


class ProbeAnswer(TypedDict):
    """A reply to ``probe``: a TargetCheck. ``verdict`` is the value of a TargetVerdict."""

    target: str
    verdict: str
    code: str
    reason: str
