"""Questions about targets: would an OPEN be admitted? Both ways, on one session's control channel.

The channel keeps order and loses nothing, so questions need no names: the n-th answer is that of the n-th.
"""

from __future__ import annotations

from tunnel.errors import MisuseError, ProtocolError, RefusedError
from tunnel.wire.codes import Code, Feature
from tunnel.wire.control_channel import ControlChannel
from tunnel.wire.events import TargetJudged, TargetProbed
from tunnel.wire.frames import Probe, Verdict

MAX_PROBES = 1024
"""Most targets that we ask about at once."""


class Probes:
    """``features`` are those that both sides agreed on: ``known`` is whether questions are among them."""

    def __init__(self, control: ControlChannel, features: Feature) -> None:
        self.known = Feature.PROBE in features
        self._control = control
        self._ours = 0  # questions without an answer
        self._theirs = 0

    def ask(self, target: str) -> None:
        """Ask the peer about ``target``; answers come as TargetJudged, in the order of the questions.

        Raises RefusedError when the peer has too much to answer already. Only while ``known``.
        """
        if not self.known:
            raise MisuseError(Code.PROTOCOL, "the peer knows no PROBE")
        if self._ours >= MAX_PROBES or self._control.crowded:
            raise RefusedError("the peer does not keep up with what it was asked", Code.STREAM_LIMIT)
        self._control.push(Probe(target))
        self._ours += 1

    def judge(self, code: Code, reason: str) -> None:
        """Answer the oldest TargetProbed: NONE, or what an OPEN would be refused with."""
        if not self._theirs:
            raise MisuseError(Code.PROTOCOL, "the peer asked about no target")
        self._theirs -= 1
        self._control.push(Verdict(code, reason))

    def obey(self, frame: Probe | Verdict) -> TargetProbed | TargetJudged:
        """Take the peer's question or answer in. Raises ProtocolError when it must not be."""
        if not self.known:
            raise ProtocolError(Code.PROTOCOL, f"{frame.type.name} without the feature")
        return self._on_probe(frame) if isinstance(frame, Probe) else self._on_verdict(frame)

    def _on_probe(self, frame: Probe) -> TargetProbed:
        if self._control.crowded:
            raise ProtocolError(Code.FLOW_CONTROL, "asks about targets, and takes no answers")
        self._theirs += 1
        return TargetProbed(frame.target)

    def _on_verdict(self, frame: Verdict) -> TargetJudged:
        if not self._ours:
            raise ProtocolError(Code.PROTOCOL, "VERDICT on a target that was not asked about")
        self._ours -= 1
        return TargetJudged(frame.code, frame.reason)
