"""The certificates in use, for as long as lanes live by them.

Trust is no matter of the handshake alone. Whenever the files change, or something in a chain ends, every lane
is judged again by the rule of ``tunnel.tls.trust``: the peer's chain and our own, as they were shown.
Where that finds a fault the link ends at once, with the same words on both hosts.

Files are looked at before each new lane, every LOOK seconds, and at SIGHUP. What cannot be used (a damaged
file, a key that does not belong) leaves in place what is in use, and is said once. Files are often written
one after the other, so links are judged by new ones only when two looks in a row found the same; a lane that
is made meanwhile uses them already. A CRL that revokes this host counts even if nothing else could be used.

What is found wrong is looked at again: a file may have been out of reach or not valid yet, the clock may have
been wrong. Lanes that prove this host by another certificate than the one in use are replaced, also those
that were under way when it was renewed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import structlog

from tunnel.errors import CertificateError
from tunnel.lanes.lane import Lane
from tunnel.relay.link import Link
from tunnel.tls.contexts import TlsContexts, load
from tunnel.tls.expiry import LEVELS, Expiry, warnings
from tunnel.tls.openssl import CertificateRejectedError
from tunnel.tls.rejections import Clock, Verify, explain_rejection, now
from tunnel.tls.tls_files import TlsFiles
from tunnel.tls.trust import Trust
from tunnel.tls.verified_chains import VerifiedChains
from tunnel.wire.codes import Code

LOOK = 1.0
"""Seconds between two looks at the files and the clock."""

TRY_AGAIN = 10.0
"""Seconds after which files that could not be used are read again, changed or not."""

LATE = timedelta(seconds=30)
"""How long after a CRL's end lanes are still judged by it: they may have been under way then."""

_NEVER = datetime.max.replace(tzinfo=UTC)

Stamp = tuple[tuple[int, ...], ...]
"""What tells that files have changed."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Found:
    """What is on disk: contexts; or what is wrong there, and whom to believe if that can be told."""

    contexts: TlsContexts | None
    trust: Trust | None = None
    problem: str = ""


class Certificates:
    """See the module. ``host`` is the name that this host's certificate must keep proving."""

    def __init__(
        self,
        contexts: TlsContexts,
        host: str,
        links: Iterable[Link],
        *,
        clock: Clock = now,
    ) -> None:
        self.current = contexts
        self.problem = ""
        """Why the files, as they are on disk, are not in use."""
        self._host = host
        self._links = links
        self._clock = clock
        self._taken = self._seen = _stamp(contexts.files)
        self._unfit = ""  # why no lane can be made: what is wrong with our own certificate
        self._fit_until = _NEVER  # when to judge that again
        self._approved: WeakKeyDictionary[Lane, Trust] = WeakKeyDictionary()
        self._judged = clock()
        self._asked = asyncio.Event()
        self._said_problem = ""
        self._try_again_at = 0.0  # of time.monotonic
        self._said: dict[str, tuple[int, datetime]] = {}  # what was warned of: at which level, and its end
        self._warn_at = clock()
        self._judge_own()

    def for_next_lane(self) -> TlsContexts:
        """Return what a new lane is to be made with: the files as they are now, if they can be used.

        Raises ``CertificateError`` when this host's own certificate is of no use any more.
        """
        self._refresh()
        self._judge_own_again()
        if self._unfit:
            raise CertificateError(self._unfit)
        return self.current

    def as_known(self) -> TlsContexts:
        """As ``for_next_lane``, by what the last look has found: any thread may ask."""
        if self._unfit:
            raise CertificateError(self._unfit)
        return self.current

    async def run(self) -> None:
        """Look every LOOK seconds, and at once after ``reload``. Never returns."""
        while True:
            asked = self._asked.is_set()
            self._asked.clear()
            try:
                await self.look(asked=asked)
            except Exception:  # a bug must not end the daemon, and every migration with it
                log.exception("certificates could not be judged")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), LOOK)

    def reload(self) -> None:
        """Have the files read now, changed or not, and everything judged by them."""
        self._asked.set()

    async def look(self, *, asked: bool = False) -> None:
        """Take new files in, once they have settled, end links that are not to be, and warn of what ends.

        ``asked``: somebody waits for an answer, and means the files as they are.
        """
        stamp, taken = _stamp(self.current.files), self._taken
        settled, self._seen = asked or stamp == self._seen, stamp
        again = bool(self.problem) and time.monotonic() >= self._try_again_at
        if asked or (settled and (again or stamp != taken)):
            # On a thread, as CRLs may be large.
            found = await asyncio.to_thread(_read, self.current)
            if self._taken is taken:  # else a lane needed them meanwhile
                self._apply(stamp, found)
        if settled:
            self._say_problem(again=asked)
        if asked and not self.problem:
            log.info("certificates and CRLs were read again", file=str(self.current.files.cert))
        self._heed_clock()
        self._judge_own_again()
        self._judge_lanes(settled=settled)
        self._replace_outdated()
        self._warn()

    def facts(self) -> dict[str, Any]:
        """For ``status``. The keys are stable; times are ISO 8601."""
        moment = self._clock()
        ends = self.current.expiries(moment)
        return {
            "names": list(self.current.names),
            "not_after": ends[0].ends.isoformat(),
            "ends_first": ends[0].what,
            "days_left": ends[0].days_left(moment),
            "warnings": [words for _, words in warnings((*ends, *self._ends_of_peers()), moment)],
            "problem": self.problem or self._unfit or None,
        }

    def _ends_of_peers(self) -> list[Expiry]:
        """What peers proved themselves with. Their own logs warn of it."""
        proofs = [lane.proof for link in self._links for lane in list(link.lanes.values()) if lane.proof]
        found = {expiry for proof in proofs for expiry in proof.expiries()}
        return sorted(found, key=lambda expiry: (expiry.ends, expiry.what))

    # Files.

    def _refresh(self) -> None:
        """Use the files as they are on disk, if they have changed and can be used."""
        if (stamp := _stamp(self.current.files)) != self._taken:
            self._apply(stamp, _read(self.current))

    def _apply(self, stamp: Stamp, found: _Found) -> None:
        self._taken, self.problem = stamp, found.problem
        self._try_again_at = time.monotonic() + TRY_AGAIN
        if found.contexts is not None:
            self._take(found.contexts)
        elif found.trust is not None:
            self._believe(found.trust)
        self._judge_own()
        self._warn_at = self._clock()

    def _take(self, new: TlsContexts) -> None:
        if self._host not in new.names:
            names = f"{self._host} is not a DNS name of {new.files.cert}: that is {', '.join(new.names)}"
            self.problem = f"host.name: {names}"
            self._believe(new.trust)
            return
        old, self.current = self.current, new
        if (new.accepted, new.dialed) != (old.accepted, old.dialed):
            log.info("this host's certificate was renewed", file=str(new.files.cert))

    def _believe(self, trust: Trust) -> None:
        """Of files that cannot all be used, take authorities and CRLs, unless these are for others.

        They are for others where they do not know the authority of the certificate in use; it is in use by
        mistake where they revoke it.
        """
        fault = self._fault_of_own(trust)
        if fault is None or fault[0].code == Verify.CERT_REVOKED:
            self.current = self.current.believing(trust)

    def _say_problem(self, *, again: bool) -> None:
        if self.problem and (again or self.problem != self._said_problem):
            log.warning("new certificate files cannot be used, the old ones stay", reason=self.problem)
        self._said_problem = self.problem

    # Judging.

    def _judge_own(self) -> None:
        """Find out whether lanes can be made, and until when that holds."""
        moment = self._clock()
        fault = self._fault_of_own(self.current.trust)
        self._unfit = ""
        if fault is not None:
            error, dialing = fault
            self._unfit = explain_rejection(error, self.current.files, "", dialing=dialing, clock=self._clock)
        ends = [expiry.ends for expiry in self.current.expiries(moment)]
        self._fit_until = min((end for end in ends if end > moment), default=_NEVER)

    def _judge_own_again(self) -> None:
        """Judge ourselves if something has ended since, or was wrong."""
        if self._unfit or self._clock() >= self._fit_until:
            self._judge_own()

    def _heed_clock(self) -> None:
        """A clock that was put back may have been far ahead: what was left for later then is due sooner."""
        if (moment := self._clock()) < self._judged:
            self._fit_until = self._warn_at = moment

    def _fault_of_own(self, trust: Trust) -> tuple[CertificateRejectedError, bool] | None:
        """What ``trust`` has against our certificates, and whether that is the one to dial with."""
        for dialing in (False, True):
            try:
                trust.judge(self.current.own_chain(dialing=dialing), self._clock(), dialing=dialing)
            except CertificateRejectedError as error:
                return error, dialing
        return None

    def _judge_lanes(self, *, settled: bool) -> None:
        """End every link of which a lane may not go on."""
        moment, trust = self._clock(), self.current.trust
        crl_ended = any(self._judged - LATE < end <= moment for end in trust.ends_of_crls)
        for link in self._links:
            for lane in list(link.lanes.values()):
                proof = lane.proof
                if proof is None or not (
                    crl_ended or proof.ends <= moment or (settled and self._is_new(lane, proof))
                ):
                    continue
                if reason := proof.objection(trust, moment, self._host):
                    link.post(link.end, Code.CREDENTIALS, reason)
                    break
                self._approved[lane] = trust
        self._judged = moment

    def _replace_outdated(self) -> None:
        """Have lanes replaced that prove this host by another certificate than the one in use."""
        for link in self._links:
            lanes = list(link.lanes.values())  # in one step: another thread may have them
            proofs = [(lane, lane.proof) for lane in lanes if lane.proof is not None]
            outdated = [lane for lane, p in proofs if p.ours != self.current.own_chain(dialing=p.dialing)]
            if outdated:
                link.post(link.rotation.rotate, "certificates renewed", outdated)

    def _is_new(self, lane: Lane, proof: VerifiedChains) -> bool:
        """Whether the lane was not judged yet by what is believed now."""
        return self._approved.get(lane, proof.trust) is not self.current.trust

    # Warnings.

    def _warn(self) -> None:
        """Say what ends in 30, 7 or 1 days: once for each, and at the start."""
        moment = self._clock()
        if moment < self._warn_at:
            return
        expiries = self.current.expiries(moment)
        known, self._said = self._said, {}
        for expiry in expiries:
            level = expiry.level(moment)
            if level is None:
                continue
            self._said[expiry.what] = (level, expiry.ends)
            before, end = known.get(expiry.what, (max(LEVELS) + 1, expiry.ends))
            if level < before and expiry.ends <= end:  # not what was just renewed, for however short
                log.warning("certificates end", key=expiry.key, reason=expiry.warning(moment))
        steps = [e.ends - timedelta(days=level) for e in expiries for level in (*LEVELS, 0)]
        self._warn_at = min((step for step in steps if step > moment), default=_NEVER)


def _read(current: TlsContexts) -> _Found:
    """Read the files of ``current``, for the same kind of lanes."""
    try:
        contexts = load(current.files, current.kernel)
        current.trust.check_successor(contexts.trust)
    except CertificateError as error:
        return _Found(None, _read_trust(current), str(error))
    return _Found(contexts)


def _read_trust(current: TlsContexts) -> Trust | None:
    try:
        trust = Trust.read(current.files)
        current.trust.check_successor(trust)
    except CertificateError:
        return None
    return trust


def _stamp(files: TlsFiles) -> Stamp:
    """Inode, size and times of every file; nothing of one that is not there."""
    paths = {files.ca, files.cert, files.key, files.crl or files.ca, *files.dialing()}
    return tuple(map(_stamp_of, sorted(paths)))


def _stamp_of(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
