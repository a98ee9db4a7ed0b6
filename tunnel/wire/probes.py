"""Probes: would an OPEN of a target be allowed? Both directions, on one session's control channel.

The channel keeps order and loses nothing, so probes need no ids: the n-th VERDICT answers the n-th PROBE.
"""

from __future__ import annotations

from tunnel.errors import MisuseError, ProtocolError, RefusedError
from tunnel.wire.codes import Code, Feature
from tunnel.wire.control_channel import ControlChannel
from tunnel.wire.events import TargetJudged, TargetProbed
from tunnel.wire.frames import Probe, Verdict

MAX_PROBES = 1024
"""Most unanswered probes of ours."""


class Probes:
    """The probes of one session. ``features`` are the negotiated ones; ``known``: PROBE is among them."""

    def __init__(self, control: ControlChannel, features: Feature) -> None:
        self.known = Feature.PROBE in features
        self._control = control
        self._ours = 0  # unanswered probes
        self._theirs = 0

    def ask(self, target: str) -> None:
        """Send PROBE for ``target``; answers come as TargetJudged, in the order of the probes.

        Raises RefusedError when too many are unanswered. Only while ``known``.
        """
        if not self.known:
            raise MisuseError(Code.PROTOCOL, "the peer does not support PROBE")
        if self._ours >= MAX_PROBES or self._control.crowded:
            raise RefusedError("the peer answers probes too slowly", Code.STREAM_LIMIT)
        self._control.push(Probe(target))
        self._ours += 1

    def judge(self, code: Code, reason: str) -> None:
        """Answer the oldest TargetProbed: NONE, or the code and reason that an OPEN would be refused with."""
        if not self._theirs:
            raise MisuseError(Code.PROTOCOL, "no PROBE of the peer is unanswered")
        self._theirs -= 1
        self._control.push(Verdict(code, reason))

    def obey(self, frame: Probe | Verdict) -> TargetProbed | TargetJudged:
        """Process PROBE or VERDICT. Raises ProtocolError when it is not allowed."""
        if not self.known:
            raise ProtocolError(Code.PROTOCOL, f"{frame.type.name} without the feature PROBE")
        return self._on_probe(frame) if isinstance(frame, Probe) else self._on_verdict(frame)

    def _on_probe(self, frame: Probe) -> TargetProbed:
        if self._control.crowded:
            raise ProtocolError(Code.FLOW_CONTROL, "sends PROBE, but does not acknowledge answers")
        self._theirs += 1
        return TargetProbed(frame.target)

    def _on_verdict(self, frame: Verdict) -> TargetJudged:
        if not self._ours:
            raise ProtocolError(Code.PROTOCOL, "VERDICT without a PROBE")
        self._ours -= 1
        return TargetJudged(frame.code, frame.reason)
