"""Timeouts of links, in one place. No user sets them: plans carry them so that tests can use shorter ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds."""

    first_frame: float = 10.0
    """From the TLS handshake of an accepted lane to its first frame."""

    answer: float = 10.0
    """From the first frame of a dialled lane to the peer's answer."""

    duplicate: float = 5.0
    """Within which an old lane must answer a PING when another daemon requests its session: less than
    ``answer``, for which that daemon waits."""

    link: float = 10.0
    """That a connection to an ingress waits for the link to come up."""

    refusal: float = 0.5
    """From accepting a connection to an ingress to its reset, at least (see ``delayed_resets``)."""

    additional: float = 3.0
    """That a stream waits for an additional session to come up; then it uses the primary one."""

    worker: float = 1.0
    """That a worker may take longer than ``additional`` to report that."""

    idle: float = 60.0
    """Without a stream, after which an additional session is ended."""

    look: float = 1.0
    """Between two checks of idle sessions, and of the load of workers."""

    close: float = 5.0
    """That a worker may take to end its sessions when the daemon stops: longer than a lane lingers."""
